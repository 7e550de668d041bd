#include <algorithm>

#include "core/iommufd/area.h"

namespace perdure::iommufd {

void AreaMap::replace_child(Area* parent, Area* old, Area* fresh) {
  if (!parent) {
    root_ = fresh;
  } else if (parent->left_ == old) {
    parent->left_ = fresh;
  } else {
    parent->right_ = fresh;
  }
  if (fresh) fresh->parent_ = parent;
}

// The child on the other side takes the place of `at`, which becomes its child.
Area* AreaMap::rotate(Area& at, bool to_left) {
  Area* const up = to_left ? at.right_ : at.left_;
  replace_child(at.parent_, &at, up);
  Area*& inner = to_left ? up->left_ : up->right_;
  (to_left ? at.right_ : at.left_) = inner;
  if (inner) inner->parent_ = &at;
  inner = &at;
  at.parent_ = up;
  at.height_ = 1 + std::max(height(at.left_), height(at.right_));
  up->height_ = 1 + std::max(height(up->left_), height(up->right_));
  return up;
}

void AreaMap::rebalance(Area* from) {
  for (Area* at = from; at; at = at->parent_) {
    const unsigned left = height(at->left_);
    const unsigned right = height(at->right_);
    if (left > right + 1) {
      if (height(at->left_->left_) < height(at->left_->right_)) rotate(*at->left_, true);
      at = rotate(*at, false);
    } else if (right > left + 1) {
      if (height(at->right_->right_) < height(at->right_->left_)) rotate(*at->right_, false);
      at = rotate(*at, true);
    } else {
      at->height_ = 1 + std::max(left, right);
    }
  }
}

void AreaMap::insert(Area& area) {
  area.left_ = area.right_ = area.parent_ = nullptr;
  area.height_ = 1;
  Area** link = &root_;
  while (*link) {
    area.parent_ = *link;
    link = area.iova < (*link)->iova ? &(*link)->left_ : &(*link)->right_;
  }
  *link = &area;
  rebalance(area.parent_);
}

void AreaMap::remove(Area& area) {
  Area* unbalanced = area.parent_;
  if (!area.left_ || !area.right_) {
    replace_child(area.parent_, &area, area.left_ ? area.left_ : area.right_);
  } else {
    Area* successor = area.right_;
    while (successor->left_) successor = successor->left_;
    unbalanced = successor->parent_ == &area ? successor : successor->parent_;
    if (successor->parent_ != &area) {
      replace_child(successor->parent_, successor, successor->right_);
      successor->right_ = area.right_;
      area.right_->parent_ = successor;
    }
    successor->left_ = area.left_;
    area.left_->parent_ = successor;
    replace_child(area.parent_, &area, successor);
  }
  area.parent_ = area.left_ = area.right_ = nullptr;
  rebalance(unbalanced);
}

Area* AreaMap::lower_bound(Iova from) const {
  Area* best = nullptr;
  for (Area* at = root_; at;) {
    if (at->last() >= from) {
      best = at;
      at = at->left_;
    } else {
      at = at->right_;
    }
  }
  return best;
}

Area* AreaMap::find(Iova first, Iova last) const {
  Area* const area = lower_bound(first);
  return area && area->iova <= last ? area : nullptr;
}

Area* AreaMap::next(const Area& area) {
  if (area.right_) {
    Area* at = area.right_;
    while (at->left_) at = at->left_;
    return at;
  }
  const Area* at = &area;
  while (at->parent_ && at->parent_->right_ == at) at = at->parent_;
  return at->parent_;
}

}  // namespace perdure::iommufd
