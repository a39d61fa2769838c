"""`python -m modkernel.jobs` forks a child process for every job."""

from __future__ import annotations

from modkernel.system.collector import collect_seldom


def main() -> None:
    """See `modkernel.jobs.server`, which is imported late: it imports torch."""
    collect_seldom()
    from modkernel.jobs import server

    server.main()


if __name__ == "__main__":
    main()
