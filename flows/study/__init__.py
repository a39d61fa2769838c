"""The transfer study: every task's module judged for every task, and scores compared with that."""
