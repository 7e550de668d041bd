// A guest's output in lines: whole, of bounded length, however it comes in pieces.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "core/base/types.h"

namespace perdure::tool::metal {

class Lines {
 public:
  static constexpr usize kLongest = usize{1} << 20;

  // Calls `line` for each whole line without its end. One that is too long is left out, and `too_long` is told its
  // beginning once.
  void take(std::string_view bytes, const std::function<void(std::string_view)>& line,
            const std::function<void(std::string_view)>& too_long);
  // What came behind the last whole line.
  const std::string& rest() const { return rest_; }

 private:
  std::string rest_;
  bool skipping_ = false;
};

// Control characters and broken UTF-8 made visible: what a guest prints goes to terminals and into JSON.
std::string printable(std::string_view text);
// Whether a line is JSON that no reader has to go deep for: each level costs some of the reader's stack.
bool shallow(std::string_view json);
// At most a line or two of it.
std::string cut(std::string_view text);

}  // namespace perdure::tool::metal
