// A board as a text file (TOML); docs/board.md is the reference. What a configuration can say a file can say.
#pragma once
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

#include "machine/board/config.h"

namespace perdure::board {

// "FILE:LINE:COLUMN: KEY: what is wrong; what is allowed".
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throw ConfigError: not TOML, a key or value that is not allowed, or functions that name each other wrongly. Board's
// constructor judges the machine as a whole.
BoardConfig read_board(const std::filesystem::path& file);
// Of a file; throws ConfigError.
std::string read_text(const std::filesystem::path& file);
// `name` stands in messages in place of the file.
BoardConfig parse_board(std::string_view text, std::string_view name);

// Reading it again gives an equal configuration. What has its default value is left out, unless `all` is wanted.
std::string write_board(const BoardConfig& config, bool all = false);
// The machine's own keys alone, and its units, devices and reserved regions.
std::string write_board_keys(const BoardConfig& config, bool all);
std::string write_board_tables(const BoardConfig& config, bool all);

}  // namespace perdure::board
