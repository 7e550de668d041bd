// Runs every input of the folders and files named, without libFuzzer: found inputs are regression tests of every build.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/base/types.h"

extern "C" int LLVMFuzzerTestOneInput(const perdure::u8* data, perdure::usize bytes);

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  std::vector<fs::path> inputs;
  for (int i = 1; i < argc; ++i) {
    if (fs::is_directory(argv[i])) {
      for (const auto& e : fs::directory_iterator(argv[i])) inputs.push_back(e.path());
    } else {
      inputs.emplace_back(argv[i]);
    }
  }
  std::sort(inputs.begin(), inputs.end());
  if (inputs.empty()) {
    std::fprintf(stderr, "replay: no inputs; name files or folders of them\n");
    return 2;
  }
  const auto began = std::chrono::steady_clock::now();
  for (const fs::path& path : inputs) {
    // The last name printed is the one that failed.
    std::printf("%s\n", path.c_str());
    std::fflush(stdout);
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    LLVMFuzzerTestOneInput(reinterpret_cast<const perdure::u8*>(bytes.data()), bytes.size());
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  std::printf("%zu inputs, %.0f a second\n", inputs.size(), static_cast<double>(inputs.size()) / took.count());
  return 0;
}
