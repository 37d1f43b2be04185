"""What the benchmarks of the running service share: a service of its own, clients in a process of their own."""
