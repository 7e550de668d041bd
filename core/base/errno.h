// Linux's error numbers (x86-64), under names that errno.h's macros cannot touch.
#pragma once
#include <string_view>

namespace perdure {

enum class Errno : int {
  Eperm = 1,
  Enoent = 2,
  Esrch = 3,
  Eintr = 4,
  Eio = 5,
  Enxio = 6,
  E2big = 7,
  Enoexec = 8,
  Ebadf = 9,
  Eagain = 11,
  Enomem = 12,
  Eacces = 13,
  Efault = 14,
  Ebusy = 16,
  Eexist = 17,
  Exdev = 18,
  Enodev = 19,
  Enotdir = 20,
  Eisdir = 21,
  Einval = 22,
  Enfile = 23,
  Emfile = 24,
  Enotty = 25,
  Efbig = 27,
  Enospc = 28,
  Espipe = 29,
  Erange = 34,
  Edeadlock = 35,
  Enametoolong = 36,
  Enosys = 38,
  Eloop = 40,
  Ebade = 52,
  Enodata = 61,
  Eproto = 71,
  Eoverflow = 75,
  Ebadfd = 77,
  Emsgsize = 90,
  Eopnotsupp = 95,
  Eaddrinuse = 98,
  Eaddrnotavail = 99,
  Etimedout = 110,
  Eestale = 116,
  Ekilled = 512,  // never reaches a program: the kernel it called is gone (ERESTARTSYS's number)
};

constexpr std::string_view errno_name(Errno e) {
  switch (e) {
    case Errno::Eperm: return "EPERM";
    case Errno::Enoent: return "ENOENT";
    case Errno::Esrch: return "ESRCH";
    case Errno::Eintr: return "EINTR";
    case Errno::Eio: return "EIO";
    case Errno::Enxio: return "ENXIO";
    case Errno::E2big: return "E2BIG";
    case Errno::Enoexec: return "ENOEXEC";
    case Errno::Ebadf: return "EBADF";
    case Errno::Eagain: return "EAGAIN";
    case Errno::Enomem: return "ENOMEM";
    case Errno::Eacces: return "EACCES";
    case Errno::Efault: return "EFAULT";
    case Errno::Ebusy: return "EBUSY";
    case Errno::Eexist: return "EEXIST";
    case Errno::Exdev: return "EXDEV";
    case Errno::Enodev: return "ENODEV";
    case Errno::Enotdir: return "ENOTDIR";
    case Errno::Eisdir: return "EISDIR";
    case Errno::Einval: return "EINVAL";
    case Errno::Enfile: return "ENFILE";
    case Errno::Emfile: return "EMFILE";
    case Errno::Enotty: return "ENOTTY";
    case Errno::Efbig: return "EFBIG";
    case Errno::Enospc: return "ENOSPC";
    case Errno::Espipe: return "ESPIPE";
    case Errno::Erange: return "ERANGE";
    case Errno::Edeadlock: return "EDEADLK";
    case Errno::Enametoolong: return "ENAMETOOLONG";
    case Errno::Enosys: return "ENOSYS";
    case Errno::Eloop: return "ELOOP";
    case Errno::Ebade: return "EBADE";
    case Errno::Enodata: return "ENODATA";
    case Errno::Eproto: return "EPROTO";
    case Errno::Eoverflow: return "EOVERFLOW";
    case Errno::Ebadfd: return "EBADFD";
    case Errno::Emsgsize: return "EMSGSIZE";
    case Errno::Eopnotsupp: return "EOPNOTSUPP";
    case Errno::Eaddrinuse: return "EADDRINUSE";
    case Errno::Eaddrnotavail: return "EADDRNOTAVAIL";
    case Errno::Etimedout: return "ETIMEDOUT";
    case Errno::Eestale: return "ESTALE";
    case Errno::Ekilled: return "EKILLED";
  }
  return "E?";
}

}  // namespace perdure
