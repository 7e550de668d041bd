// A borrowed callable, for visitors: two words, no allocation. Must not outlive what it refers to.
#pragma once
#include <memory>
#include <type_traits>
#include <utility>

namespace perdure {

template <class Signature>
class FunctionRef;

template <class R, class... Args>
class FunctionRef<R(Args...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<R, F&, Args...>)
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor): a lambda converts at the call
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))), call_([](void* o, Args... args) -> R {
          auto& callable = *static_cast<std::remove_reference_t<F>*>(o);
          if constexpr (std::is_void_v<R>) {
            static_cast<void>(callable(std::forward<Args>(args)...));
          } else {
            return callable(std::forward<Args>(args)...);
          }
        }) {}
  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

}  // namespace perdure
