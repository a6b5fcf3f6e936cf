"""What `bench serving` compares with, run by interpreters that have it: scripts that import nothing of ours."""
