"""The transfer study: every task's module evaluated on every task, and scores held with that."""
