/*
 * For scripts/with-cgroups.sh, preloaded into user-mode Linux. A host whose processors have more registers than that kernel
 * knows of takes them back only all at once: what the kernel does not give is put there as it is.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define WHOLE_BYTES 65536

long ptrace(enum __ptrace_request request, ...) {
  static char whole[WHOLE_BYTES] __attribute__((aligned(64)));
  va_list arguments;
  va_start(arguments, request);
  pid_t pid = va_arg(arguments, pid_t);
  void *address = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);

  if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE) {
    struct iovec *given = data;
    struct iovec all = {whole, sizeof whole};
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) < 0) return -1;
    memcpy(whole, given->iov_base, given->iov_len < all.iov_len ? given->iov_len : all.iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, address, &all);
  }
  if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
    long word;
    long result = syscall(SYS_ptrace, request, pid, address, &word);
    if (result < 0) return result;
    errno = 0;
    return word;
  }
  return syscall(SYS_ptrace, request, pid, address, data);
}
