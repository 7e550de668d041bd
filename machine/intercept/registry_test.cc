#include "machine/intercept/registry.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace perdure::intercept {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class RegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    auto made = Registry::create();
    ASSERT_TRUE(made);
    registry = std::move(*made);
  }
  host::Descriptor make(u64 handle, const char* name, int flags = O_RDWR) {
    auto made = registry->make(handle, name, name, flags);
    EXPECT_TRUE(made);
    return made ? std::move(*made) : host::Descriptor();
  }
  std::vector<u64> closed() { return registry->take_events().closed; }
  static FileId id(int fd) { return *Target(getpid(), getpid()).file_id(fd); }

  std::unique_ptr<Registry> registry;
};

TEST_F(RegistryTest, KnowsWhatEachFileStandsForByAnyOfItsDescriptors) {
  const host::Descriptor iommu = make(7, "/dev/iommu");
  const host::Descriptor session = make(8, "anon_inode:[luo_session]");
  const host::Descriptor copy(dup(session.get()));
  ASSERT_TRUE(registry->find(id(iommu.get())));
  EXPECT_EQ(registry->find(id(iommu.get()))->handle, 7U);
  EXPECT_TRUE(registry->find(id(iommu.get()))->mappable);
  EXPECT_EQ(registry->find(id(copy.get()))->handle, 8U);
  EXPECT_FALSE(registry->find(id(copy.get()))->mappable);
  EXPECT_FALSE(registry->find(id(STDERR_FILENO)));
}

TEST_F(RegistryTest, LastCloseIsThatOfTheLastDescriptor) {
  for (const char* name : {"/dev/iommu", "/dev/liveupdate"}) {
    host::Descriptor file = make(3, name);
    host::Descriptor copy(dup(file.get()));
    const FileId known = id(file.get());
    file.reset();
    EXPECT_THAT(closed(), IsEmpty());
    copy.reset();
    EXPECT_THAT(closed(), ElementsAre(3)) << name;
    EXPECT_FALSE(registry->find(known));
    EXPECT_THAT(closed(), IsEmpty());
  }
}

TEST_F(RegistryTest, MappingsHoldTheFile) {
  for (const int flags : {O_RDWR, O_RDONLY}) {
    host::Descriptor file = make(4, "/dev/vfio/devices/vfio0", flags);
    void* at = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file.get(), off_t{1} << 61);
    ASSERT_NE(at, MAP_FAILED);
    file.reset();
    EXPECT_THAT(closed(), IsEmpty());
    ASSERT_EQ(munmap(at, 4096), 0);
    EXPECT_THAT(closed(), ElementsAre(4));
  }
}

TEST_F(RegistryTest, AnotherProcessHoldsTheFile) {
  host::Descriptor file = make(5, "/dev/iommu");
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  const pid_t child = fork();
  if (child == 0) {
    char byte = 0;
    close(go[1]);
    _exit(static_cast<int>(read(go[0], &byte, 1)));
  }
  file.reset();
  EXPECT_THAT(closed(), IsEmpty());
  close(go[1]);
  close(go[0]);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_THAT(closed(), ElementsAre(5));
}

TEST_F(RegistryTest, WhatCameToNobodyIsNotClosed) {
  host::Descriptor file = make(6, "/dev/iommu");
  host::Descriptor session = make(7, "anon_inode:[luo_session]");
  registry->forget(6);
  registry->forget(7);
  file.reset();
  session.reset();
  EXPECT_THAT(closed(), IsEmpty());
}

TEST_F(RegistryTest, ReadyWhenThereIsSomethingToTake) {
  pollfd p = {registry->poll_fd(), POLLIN, 0};
  host::Descriptor a = make(1, "/dev/iommu");
  host::Descriptor b = make(2, "/dev/liveupdate");
  EXPECT_EQ(poll(&p, 1, 0), 0);
  a.reset();
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_THAT(closed(), ElementsAre(1));
  EXPECT_EQ(poll(&p, 1, 0), 0);
  b.reset();
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_THAT(closed(), ElementsAre(2));
}

// A shell moves the descriptor of sriov_numvfs to where no filter sees it.
TEST_F(RegistryTest, OrdersThatNobodySawAreFoundInTheFile) {
  auto made = registry->make_orders("/sys/x", {}, O_WRONLY);
  ASSERT_TRUE(made);
  ASSERT_EQ(write(made->get(), "2\n", 2), 2);
  auto events = registry->take_events();
  ASSERT_EQ(events.orders.size(), 1U);
  EXPECT_EQ(events.orders[0].path, "/sys/x");
  EXPECT_EQ(events.orders[0].text, "2\n");
  ASSERT_EQ(write(made->get(), "0\n4", 3), 3);
  made->reset();
  events = registry->take_events();
  ASSERT_EQ(events.orders.size(), 2U);
  EXPECT_EQ(events.orders[0].text, "0\n");
  EXPECT_EQ(events.orders[1].text, "4\n");
  EXPECT_THAT(events.closed, IsEmpty());
}

}  // namespace
}  // namespace perdure::intercept
