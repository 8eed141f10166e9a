"""Runs Python that nobody has read, and lets it reach nothing.

`isolation` is the service's side: it starts one process per run and bounds it. `jail` is that process: it builds the
walls out of `linux` and `seccomp`, then becomes the program. `inspection` is the program that the service runs first,
to see from within that the walls stand; where they do not, no program runs at all (`IsolationUnavailable`).

What holds a program:

- **Namespaces** for users, mounts, processes, network and IPC. It is process 1 of its own, an unprivileged user without
  capabilities, with no network interface that is up. When it ends, or the service does, the kernel kills what is left.
- **Files**: an empty root of our own, read-only. In it are Python with its standard library, the libraries it is linked
  to and two devices, all read-only, and `/work`, a small file system in memory. There is no `/proc`, so neither other
  processes nor the service's environment can be seen; nothing of `/etc` but the linker's cache, no home, no shell. The
  environment is empty.
- **A filter of system calls** (`seccomp`): no new process (threads are fine, they share the limit of memory), no
  socket, no namespace, no tracing, none of the interfaces that defects of the kernel are usually found in, and nothing
  that is newer than the filter.
- **Limits**: wall-clock and CPU time, address space, threads, open files, size of files and of the file system, length
  of the standard output, which is the program's report. The standard error goes nowhere.

What does not: a defect of the kernel in what is left of it (for that, run the evaluator in a virtual machine), side
channels such as timing and the machine's load, and reading what is world-readable in the library directories. Within
its own process a program can do everything, hence also to code of ours that shares that process.
"""
