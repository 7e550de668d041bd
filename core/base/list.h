// Intrusive doubly linked list: the node lives in the object, so linking cannot fail.
#pragma once
#include "core/base/platform.h"

namespace perdure {

struct ListNode {
  ListNode* prev = nullptr;
  ListNode* next = nullptr;
  void* owner = nullptr;  // the object, so that no offset arithmetic is needed
  bool linked() const { return next != nullptr; }
  void unlink() {
    prev->next = next;
    next->prev = prev;
    prev = next = nullptr;
  }
};

// Objects of type T, linked through the member `Node`. The list owns nothing.
template <class T, ListNode T::* Node>
class List {
 public:
  List() { head_.prev = head_.next = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  class Iterator {
   public:
    explicit Iterator(ListNode* at) : at_(at) {}
    T& operator*() const { return *object(at_); }
    T* operator->() const { return object(at_); }
    Iterator& operator++() {
      at_ = at_->next;
      return *this;
    }
    bool operator==(const Iterator&) const = default;

   private:
    ListNode* at_;
  };

  bool empty() const { return head_.next == &head_; }
  Iterator begin() const { return Iterator(head_.next); }
  Iterator end() const { return Iterator(const_cast<ListNode*>(&head_)); }
  T& front() const { return *object(head_.next); }
  T& back() const { return *object(head_.prev); }
  void push_back(T& o) { insert_before(head_, o); }
  void push_front(T& o) { insert_before(*head_.next, o); }
  // Before `at` in the order; `at` must be in this list.
  void insert_before(T& at, T& o) { insert_before(at.*Node, o); }
  static void remove(T& o) { (o.*Node).unlink(); }
  T* pop_front() {
    if (empty()) return nullptr;
    T& o = front();
    remove(o);
    return &o;
  }
  T* pop_back() {
    if (empty()) return nullptr;
    T& o = back();
    remove(o);
    return &o;
  }
  // The neighbours of `o`, null at the ends.
  T* next(T& o) const { return (o.*Node).next == &head_ ? nullptr : object((o.*Node).next); }
  T* prev(T& o) const { return (o.*Node).prev == &head_ ? nullptr : object((o.*Node).prev); }
  usize size() const {
    usize n = 0;
    for (const ListNode* p = head_.next; p != &head_; p = p->next) ++n;
    return n;
  }

 private:
  static T* object(ListNode* n) { return static_cast<T*>(n->owner); }
  static void insert_before(ListNode& at, T& o) {
    ListNode& n = o.*Node;
    PERDURE_ASSERT(!n.linked());
    n.owner = &o;
    n.prev = at.prev;
    n.next = &at;
    at.prev->next = &n;
    at.prev = &n;
  }
  mutable ListNode head_;
};

}  // namespace perdure
