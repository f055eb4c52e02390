"""What the store does to a real disk, seen system call by system call: killed at each one, and with the power cut between any two.

`tracer` stops a child process at its system calls, `recorder` turns them into what happens to a folder, `power` says which images of the
folder a power cut may leave behind, `lives` has what the child does and what must be found afterwards, `soak` puts it all together for
many seeds. ``python -m tests.disk`` runs it for as long as one likes. Linux only: it needs ptrace.
"""
