"""How runs reach processors: a sweep planned, sent through submitit, watched, and sent again where jobs were lost."""
