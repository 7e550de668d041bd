#include "metal/report.h"

#include "core/base/log.h"
#include "metal/clock.h"
#include "metal/serial.h"

namespace perdure::metal {

namespace {

// Right-aligned in `width` places.
void padded(Line& to, u64 value, unsigned width, char with) {
  u64 limit = 1;
  for (unsigned i = 1; i < width; ++i) limit *= 10;
  for (; limit > 1 && value < limit; limit /= 10) to << std::string_view(&with, 1);
  to << value;
}

}  // namespace

void log(LogLevel level, std::string_view text) {
  static constexpr std::string_view kNames[] = {"debug", "info", "warn", "error"};
  const u64 us = clock_ns() / 1000;
  Line head;
  head << "[";
  padded(head, us / 1'000'000, 4, ' ');
  head << ".";
  padded(head, us % 1'000'000, 6, '0');
  head << "] " << kNames[static_cast<unsigned>(level)] << ": ";
  serial_write(head.view());
  serial_write(text);
  serial_write("\n");
}

Event::Event(std::string_view name) {
  put("{");
  field("event", name);
}

Event::~Event() {
  put("}\n");
  serial_write({buffer_, used_});
}

Event& Event::field(std::string_view name, std::string_view text) {
  key(name);
  quoted(text);
  return *this;
}

Event& Event::field(std::string_view name, const char* text) {
  usize n = 0;
  while (text[n] != '\0') ++n;
  return field(name, std::string_view(text, n));
}

Event& Event::field(std::string_view name, u64 value) {
  key(name);
  number(value);
  return *this;
}

Event& Event::flag(std::string_view name, bool value) {
  key(name);
  put(value ? "true" : "false");
  return *this;
}

Event& Event::begin(std::string_view name, char bracket) {
  key(name);
  put({&bracket, 1});
  first_ = true;
  return *this;
}

Event& Event::end(char bracket) {
  put({&bracket, 1});
  first_ = false;
  return *this;
}

void Event::key(std::string_view name) {
  if (!first_) put(",");
  first_ = false;
  if (name.empty()) return;
  quoted(name);
  put(":");
}

void Event::put(std::string_view text) {
  for (char c : text) {
    if (used_ == sizeof buffer_) {
      serial_write({buffer_, used_});
      used_ = 0;
    }
    buffer_[used_++] = c;
  }
}

void Event::quoted(std::string_view text) {
  put("\"");
  for (char c : text) {
    if (c == '"' || c == '\\') put("\\");
    put(c < ' ' || c > '~' ? std::string_view("?") : std::string_view(&c, 1));
  }
  put("\"");
}

void Event::number(u64 value) {
  put((Line() << value).view());
}

}  // namespace perdure::metal
