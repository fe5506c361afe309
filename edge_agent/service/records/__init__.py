"""What the service knows, in SQLite: tables, transactions, client tokens, pages."""
