// Paths to the nodes, in all the ways that a program may write them; and what sysfs shows.
#include <dirent.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <climits>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/intercept/probe.h"

namespace probe {
namespace {

bool is_iommufd(int fd) {
  return fd >= 0 && alloc_ioas(fd) && close(fd) == 0;
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  if (DIR* directory = opendir(path.c_str())) {
    while (const dirent* entry = readdir(directory)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    closedir(directory);
  }
  return names;
}

std::string text_of(const std::string& path) {
  char text[4096];
  const int fd = open(path.c_str(), O_RDONLY);
  const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
  if (fd >= 0) close(fd);
  return n < 0 ? "?" : std::string(text, static_cast<size_t>(n));
}

std::string link_of(const std::string& path) {
  char text[PATH_MAX];
  const ssize_t n = readlink(path.c_str(), text, sizeof text);
  return n < 0 ? "?" : std::string(text, static_cast<size_t>(n));
}

// Removes what it names when it goes.
struct Link {
  Link(const char* to, std::string at) : path(std::move(at)) { made = symlink(to, path.c_str()) == 0; }
  ~Link() { unlink(path.c_str()); }
  std::string path;
  bool made;
};

std::string temporary(const char* name) {
  const char* directory = getenv("TMPDIR");
  return std::string(directory ? directory : "/tmp") + "/probe-" + std::to_string(getpid()) + "-" + name;
}

PROBE_CASE(paths) {
  const int dev = open("/dev", O_RDONLY | O_DIRECTORY);
  EXPECT(dev >= 0);
  EXPECT(is_iommufd(openat(dev, "iommu", O_RDWR)));
  EXPECT(is_iommufd(openat(dev, "vfio/../../dev/./iommu", O_RDWR)));
  EXPECT(is_iommufd(openat(-1, "/dev//iommu", O_RDWR)));
  EXPECT(chdir("/dev") == 0);
  EXPECT(is_iommufd(open("iommu", O_RDWR)));
  EXPECT(chdir("/") == 0);
  EXPECT(is_iommufd(open("dev/iommu", O_RDWR)));
  EXPECT(is_iommufd(open("../../dev/iommu", O_RDWR)));
  EXPECT(is_iommufd(static_cast<int>(syscall(SYS_open, "/dev/iommu", O_RDWR))));
  EXPECT(is_iommufd(creat("/dev/iommu", 0600)));

  const Link to_node("/dev/iommu", temporary("node"));
  const Link to_link(to_node.path.c_str(), temporary("link"));
  const Link to_directory("/dev", temporary("directory"));
  EXPECT(to_node.made && to_link.made && to_directory.made);
  EXPECT(is_iommufd(open(to_link.path.c_str(), O_RDWR)));
  EXPECT(is_iommufd(open((to_directory.path + "/iommu").c_str(), O_RDWR)));
  FAILS(ELOOP, open(to_node.path.c_str(), O_RDWR | O_NOFOLLOW));
  const Link loop(temporary("loop").c_str(), temporary("loop"));
  FAILS(ELOOP, open((loop.path + "/iommu").c_str(), O_RDWR));

  FAILS(ENOTDIR, open("/dev/iommu/", O_RDWR));
  FAILS(ENOTDIR, open("/dev/iommu/x", O_RDWR));
  FAILS(ENOTDIR, open("/dev/iommu", O_RDWR | O_DIRECTORY));
  FAILS(EEXIST, open("/dev/iommu", O_RDWR | O_CREAT | O_EXCL, 0600));
  FAILS(ENOENT, open("/dev/vfio/nothing", O_RDWR));
  FAILS(ENOENT, open("/nothing/../dev/iommu", O_RDWR));
  FAILS(ENOENT, open("", O_RDWR));
  FAILS(ENAMETOOLONG, open(std::string(5000, 'x').c_str(), O_RDWR));

  open_how how = {};
  how.flags = O_RDWR | O_CLOEXEC;
  const auto openat2 = [&](const char* path) {
    return static_cast<int>(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how));
  };
  const int modern = openat2("/dev/iommu");
  EXPECT(modern >= 0 && fcntl(modern, F_GETFD) == FD_CLOEXEC && is_iommufd(modern));
  how.resolve = RESOLVE_NO_SYMLINKS;
  FAILS(ELOOP, openat2(to_node.path.c_str()));
  EXPECT(is_iommufd(openat2("/dev/iommu")));
  return 0;
}

// The links in /proc to what is open.
PROBE_CASE(proc_links) {
  const int fd = open("/dev/iommu", O_RDWR);
  const int device = open("/dev/liveupdate", O_RDWR);
  EXPECT(fd >= 0 && device >= 0);
  const int s = session(device, kCreateSession, "a");
  EXPECT(s >= 0);
  const auto link = [](int n) { return "/proc/self/fd/" + std::to_string(n); };
  EXPECT(link_of(link(fd)) == "/dev/iommu");
  EXPECT(link_of("/dev/fd/" + std::to_string(device)) == "/dev/liveupdate");
  EXPECT(link_of(link(s)).starts_with("anon_inode:[luo_session]"));
  // It is opened once more: another context.
  const int other = open(link(fd).c_str(), O_RDWR);
  EXPECT(other >= 0);
  IoasAlloc first;
  IoasAlloc second;
  EXPECT(ioctl(fd, kIoasAlloc, &first) == 0 && ioctl(other, kIoasAlloc, &second) == 0);
  EXPECT(first.out_ioas_id == second.out_ioas_id);
  EXPECT(close(other) == 0 && alloc_ioas(fd));
  FAILS(EBUSY, open(link(device).c_str(), O_RDWR));
  FAILS(ENXIO, open(link(s).c_str(), O_RDWR));
  return 0;
}

PROBE_CASE(nodes) {
  struct stat st = {};
  for (const char* node : {"/dev/iommu", "/dev/vfio/vfio", "/dev/liveupdate"}) {
    EXPECT(stat(node, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev != 0);
    struct stat opened = {};
    const int fd = open(node, O_RDWR);
    EXPECT(fd >= 0 && fstat(fd, &opened) == 0);
    EXPECT(S_ISCHR(opened.st_mode) && opened.st_rdev == st.st_rdev);
    struct statx extended = {};
    EXPECT(statx(fd, "", AT_EMPTY_PATH, STATX_ALL, &extended) == 0);
    EXPECT(S_ISCHR(extended.stx_mode) && makedev(extended.stx_rdev_major, extended.stx_rdev_minor) == st.st_rdev);
    EXPECT(statx(AT_FDCWD, node, 0, STATX_ALL, &extended) == 0 && S_ISCHR(extended.stx_mode));
    EXPECT(close(fd) == 0);
    EXPECT(access(node, R_OK | W_OK) == 0);
    FAILS(EACCES, access(node, X_OK));
    char text[8];
    FAILS(EINVAL, readlink(node, text, sizeof text));
  }
  EXPECT(minor(st.st_rdev) != 0);
  EXPECT(lstat("/dev/vfio", &st) == 0 && S_ISDIR(st.st_mode));
  FAILS(ENOENT, stat("/dev/vfio/nothing", &st));
  FAILS(ENOENT, access("/sys/kernel/debug/iommu/intel", F_OK));
  bool container = false;
  for (const std::string& name : names_in("/dev/vfio")) container = container || name == "vfio";
  EXPECT(container);
  return 0;
}

// As programs go from a device's address to its nodes.
PROBE_CASE(sysfs) {
  const std::vector<std::string> devices = names_in("/sys/bus/pci/devices");
  EXPECT(!devices.empty());
  int with_vfio = 0;
  for (const std::string& bdf : devices) {
    const std::string at = "/sys/bus/pci/devices/" + bdf;
    EXPECT(text_of(at + "/vendor").starts_with("0x") && text_of(at + "/vendor").size() == 7);
    EXPECT(text_of(at + "/class").size() == 9);
    EXPECT(text_of(at + "/resource").size() == 13 * 57);
    EXPECT(text_of(at + "/config").size() >= 256);
    char* real = realpath(at.c_str(), nullptr);
    EXPECT(real && std::string(real).starts_with("/sys/devices/pci"));
    EXPECT(link_of(real + std::string("/subsystem")).ends_with("/bus/pci"));
    free(real);
    struct stat st = {};
    EXPECT(stat((at + "/vendor").c_str(), &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 4096);
    FAILS(EACCES, open((at + "/vendor").c_str(), O_WRONLY));
    const std::vector<std::string> nodes = names_in(at + "/vfio-dev");
    if (nodes.empty()) continue;
    ++with_vfio;
    EXPECT(nodes.size() == 1);
    EXPECT(stat(("/dev/vfio/devices/" + nodes[0]).c_str(), &st) == 0 && S_ISCHR(st.st_mode));
    const std::string numbers = std::to_string(major(st.st_rdev)) + ":" + std::to_string(minor(st.st_rdev)) + "\n";
    EXPECT(text_of(at + "/vfio-dev/" + nodes[0] + "/dev") == numbers);
    EXPECT(text_of("/sys/class/vfio-dev/" + nodes[0] + "/dev") == numbers);
    EXPECT(text_of("/sys/class/vfio-dev/" + nodes[0] + "/device/vendor") == text_of(at + "/vendor"));
    const int fd = open(("/dev/vfio/devices/" + nodes[0]).c_str(), O_RDWR);
    EXPECT(fd >= 0);
    FAILS(EINVAL, ioctl(fd, 0x3b6b, nullptr));  // nothing but BIND before it is bound
    EXPECT(link_of("/proc/self/fd/" + std::to_string(fd)) == "/dev/vfio/devices/" + nodes[0]);
    EXPECT(close(fd) == 0);
    const std::string group = link_of(at + "/iommu_group");
    const std::string number = group.substr(group.rfind('/') + 1);
    EXPECT(stat(("/dev/vfio/" + number).c_str(), &st) == 0 && S_ISCHR(st.st_mode));
    bool member = false;
    for (const std::string& name : names_in("/sys/kernel/iommu_groups/" + number + "/devices")) {
      member = member || name == bdf;
    }
    EXPECT(member);
    // From a directory that is open.
    const int directory = open(at.c_str(), O_RDONLY | O_DIRECTORY);
    EXPECT(directory >= 0);
    const int vendor = openat(directory, "vendor", O_RDONLY);
    EXPECT(vendor >= 0 && close(vendor) == 0);
    EXPECT(fstatat(directory, "vfio-dev", &st, 0) == 0 && S_ISDIR(st.st_mode));
    EXPECT(faccessat(directory, "nothing", F_OK, 0) < 0 && errno == ENOENT);
    EXPECT(close(directory) == 0);
  }
  EXPECT(with_vfio > 0);
  return 0;
}

// Attributes that take orders say at once what they think of one, and what they did can be seen.
PROBE_CASE(orders) {
  const std::vector<std::string> devices = names_in("/sys/bus/pci/devices");
  EXPECT(!devices.empty());
  const std::string& bdf = devices[0];
  const std::string at = "/sys/bus/pci/devices/" + bdf;
  const int unbind = open("/sys/bus/pci/drivers/vfio-pci/unbind", O_WRONLY | O_TRUNC | O_CLOEXEC);
  EXPECT(unbind >= 0 && fcntl(unbind, F_GETFD) == FD_CLOEXEC);
  FAILS(ENODEV, write(unbind, "nonsense\n", 9));
  const void* volatile nowhere = nullptr;  // hidden from the compiler, which knows better
  FAILS(EFAULT, write(unbind, nowhere, 9));

  struct stat st;
  EXPECT(stat((at + "/driver").c_str(), &st) == 0 && stat((at + "/vfio-dev").c_str(), &st) == 0);
  const auto length = static_cast<ssize_t>(bdf.size());
  EXPECT(write(unbind, bdf.data(), bdf.size()) == length);
  FAILS(ENOENT, stat((at + "/driver").c_str(), &st));
  FAILS(ENOENT, stat((at + "/vfio-dev").c_str(), &st));
  FAILS(ENODEV, write(unbind, bdf.data(), bdf.size()));
  EXPECT(close(unbind) == 0);

  const int only = open((at + "/driver_override").c_str(), O_RDWR);
  const int bind = open("/sys/bus/pci/drivers/vfio-pci/bind", O_WRONLY);
  EXPECT(only >= 0 && bind >= 0 && write(only, "other\n", 6) == 6);
  FAILS(ENODEV, write(bind, bdf.data(), bdf.size()));
  EXPECT(write(only, "vfio-pci\n", 9) == 9 && write(bind, bdf.data(), bdf.size()) == length);
  FAILS(EBUSY, write(bind, bdf.data(), bdf.size()));
  EXPECT(stat((at + "/driver").c_str(), &st) == 0 && stat((at + "/vfio-dev").c_str(), &st) == 0);
  const int shown = open((at + "/driver_override").c_str(), O_RDONLY);
  char text[16] = {};
  EXPECT(shown >= 0 && read(shown, text, sizeof text) == 9 && strcmp(text, "vfio-pci\n") == 0);
  EXPECT(close(only) == 0 && close(bind) == 0 && close(shown) == 0);
  return 0;
}

}  // namespace
}  // namespace probe
