#include "core/file/file.h"

namespace perdure {

Result<u64> File::ioctl(Task&, u32, UserAddr) {
  return fail(Errno::Enotty);
}
Result<usize> File::read(Task&, UserAddr, usize, u64) {
  return fail(Errno::Einval);
}
Result<usize> File::write(Task&, UserAddr, usize, u64) {
  return fail(Errno::Einval);
}
Result<MapTarget> File::mmap(Task&, u64, u64, Access) {
  return fail(Errno::Enodev);
}

}  // namespace perdure
