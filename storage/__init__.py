"""What is durable: PostgreSQL, embedded or given. Knows no actor."""
