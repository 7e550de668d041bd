// What can be told of sessions (kho-luo §6 row 9).
#include "core/luo/fakes.h"

namespace perdure::luo {
namespace {

using test::World;

// One line a session or file, as a person would read them.
class Lines final : public SessionVisitor {
 public:
  explicit Lines(const Luo& luo) { luo.describe(*this); }
  void session(const SessionStatus& s) override {
    all.push_back(std::string(s.name) + ": " + std::string(progress_name(s.progress)) + ", " +
                  std::to_string(s.retrieved) + "+" + std::to_string(s.failed) + " of " + std::to_string(s.files) +
                  (s.damaged ? ", damaged" : ""));
  }
  void file(const FileStatus& f) override {
    all.push_back("  " + std::to_string(f.token) + " " + std::string(f.type) + " " +
                  std::string(progress_name(f.progress)) +
                  (f.error == Errno{} ? "" : " " + std::string(errno_name(f.error))));
  }
  std::vector<std::string> all;
};
using Text = std::vector<std::string>;

TEST(Status, ListsSessionsWithStateProgressAndSize) {
  World w;
  EXPECT_EQ(Lines(w.luo()).all, Text{});
  auto first = w.create("first"), second = w.create("second");
  ASSERT_TRUE(w.preserve(*first, w.open_fake(1), 11));
  ASSERT_TRUE(w.preserve(*first, w.open_fake(2, "b-file"), 12));
  ASSERT_TRUE(w.preserve(*first, w.open_fake(3), 13));
  EXPECT_EQ(Lines(w.luo()).all, (Text{"first: outgoing, 0+0 of 3", "  11 a-file preserved", "  12 b-file preserved",
                                      "  13 a-file preserved", "second: outgoing, 0+0 of 0"}));
  const Kho::Extent before = w.kho().outgoing_extent();
  EXPECT_GT(before.blocks, 3u) << "FDT, LUO's record and states, the list of sessions, the list of files";
  w.held.push_back(std::move(first));
  w.held.push_back(std::move(second));
  w.update();

  EXPECT_EQ(w.luo().incoming_number(), 1u);
  auto third = w.create("third");
  EXPECT_EQ(Lines(w.luo()).all,
            (Text{"first: waiting, 0+0 of 3", "  11 a-file waiting", "  12 b-file waiting", "  13 a-file waiting",
                  "second: waiting, 0+0 of 0", "third: outgoing, 0+0 of 0"}));
  auto in = *w.retrieve("first");
  ASSERT_TRUE(w.retrieve(*in, 11));
  w.a->refuse.insert("retrieve");
  EXPECT_FALSE(w.retrieve(*in, 13));
  EXPECT_EQ(Lines(w.luo()).all,
            (Text{"first: retrieved, 1+1 of 3", "  11 a-file retrieved", "  12 b-file waiting",
                  "  13 a-file failed ENOMEM", "second: waiting, 0+0 of 0", "third: outgoing, 0+0 of 0"}));
  w.b->refuse.insert("finish 12");
  in = nullptr;
  EXPECT_EQ(Lines(w.luo()).all[0], "first: stuck, 1+1 of 3");
  w.b->refuse.clear();
  third = nullptr;
  auto empty = *w.retrieve("second");
  ASSERT_TRUE(w.finish(*empty));
  EXPECT_EQ(Lines(w.luo()).all.back(), "second: finished, 0+0 of 0");
  w.task.close_all();
}

}  // namespace
}  // namespace perdure::luo
