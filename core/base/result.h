// Result<T>: a value or an Errno, and TRY, which returns the error to the caller.
#pragma once
#include <expected>
#include <utility>

#include "core/base/errno.h"

namespace perdure {

template <class T>
class [[nodiscard]] Result : public std::expected<T, Errno> {
 public:
  using std::expected<T, Errno>::expected;
};

constexpr std::unexpected<Errno> fail(Errno e) {
  return std::unexpected<Errno>(e);
}

namespace detail {
template <class T>
constexpr T take(std::expected<T, Errno>&& r) {
  return std::move(*r);
}
constexpr void take(std::expected<void, Errno>&&) {}
}  // namespace detail

}  // namespace perdure

// `auto page = TRY(allocate());` g++ 12's expected has no monadic members; a statement expression has
// the same effect as the ? operator elsewhere. Each use has a name of its own, so that uses may nest.
#define TRY(expression) PERDURE_TRY_NAMED(expression, __COUNTER__)
#define PERDURE_TRY_NAMED(expression, id) PERDURE_TRY_AS(expression, id)
#define PERDURE_TRY_AS(expression, id)                                     \
  __extension__({                                                          \
    auto try_result_##id = (expression);                                   \
    if (!try_result_##id) return ::perdure::fail(try_result_##id.error()); \
    ::perdure::detail::take(std::move(try_result_##id));                   \
  })
