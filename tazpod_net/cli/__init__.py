"""The command line: parsing, asking the supervisor, printing. The only place that ends the process."""
