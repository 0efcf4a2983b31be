"""What a figure costs to get: measurements that print a table and append JSON lines (`wavefold bench`)."""
