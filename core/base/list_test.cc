#include "core/base/list.h"

#include <rapidcheck.h>

#include <list>

namespace perdure {
namespace {

struct Item {
  explicit Item(int v = 0) : value(v) {}
  int value;
  ListNode node;
  ListNode other;
};
using Items = List<Item, &Item::node>;

std::vector<int> values(const Items& list) {
  std::vector<int> out;
  for (const Item& i : list) out.push_back(i.value);
  return out;
}

TEST(List, Model) {
  EXPECT_TRUE(rc::check("against std::list", [](const std::vector<std::pair<u8, u8>>& steps) {
    std::array<Item, 12> items;
    for (usize i = 0; i < items.size(); ++i) items[i].value = static_cast<int>(i);
    Items list;
    std::list<int> model;
    for (auto [what, which] : steps) {
      Item& item = items[which % items.size()];
      const bool in = item.node.linked();
      RC_ASSERT(in == (std::find(model.begin(), model.end(), item.value) != model.end()));
      switch (what % 6) {
        case 0:
          if (!in) list.push_back(item), model.push_back(item.value);
          break;
        case 1:
          if (!in) list.push_front(item), model.push_front(item.value);
          break;
        case 2: {
          Item& at = items[what % items.size()];
          if (in || !at.node.linked()) break;
          list.insert_before(at, item);
          model.insert(std::find(model.begin(), model.end(), at.value), item.value);
          break;
        }
        case 3:
          if (in) Items::remove(item), model.remove(item.value);
          break;
        case 4: {
          const Item* first = list.pop_front();
          RC_ASSERT((first == nullptr) == model.empty());
          if (first != nullptr) {
            RC_ASSERT(first->value == model.front());
            model.pop_front();
          }
          break;
        }
        case 5: {
          const Item* last = list.pop_back();
          RC_ASSERT((last == nullptr) == model.empty());
          if (last != nullptr) {
            RC_ASSERT(last->value == model.back());
            model.pop_back();
          }
          break;
        }
      }
      RC_ASSERT(values(list) == std::vector<int>(model.begin(), model.end()));
      RC_ASSERT(list.size() == model.size());
      RC_ASSERT(list.empty() == model.empty());
      if (model.empty()) continue;
      RC_ASSERT(list.front().value == model.front());
      RC_ASSERT(list.back().value == model.back());
      RC_ASSERT(list.prev(list.front()) == nullptr);
      RC_ASSERT(list.next(list.back()) == nullptr);
      std::vector<int> backwards;
      for (Item* i = &list.back(); i != nullptr; i = list.prev(*i)) backwards.push_back(i->value);
      RC_ASSERT(backwards == std::vector<int>(model.rbegin(), model.rend()));
    }
  }));
}

TEST(List, AnObjectInTwoLists) {
  Items one;
  List<Item, &Item::other> two;
  Item a(1), b(2);
  one.push_back(a);
  one.push_back(b);
  two.push_back(b);
  two.push_back(a);
  EXPECT_EQ(one.front().value, 1);
  EXPECT_EQ(two.front().value, 2);
  Items::remove(a);
  EXPECT_EQ(two.size(), 2u);
}

TEST(List, LinkingTwicePanics) {
  Items list;
  Item a;
  list.push_back(a);
  EXPECT_DEATH(list.push_back(a), "panic");
}

}  // namespace
}  // namespace perdure
