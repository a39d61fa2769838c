"""The registry's database: tables, queries, claims, migrations."""
