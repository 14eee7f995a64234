"""What `sled doctor` looks at, one subject a file; `check` says what a finding is."""
