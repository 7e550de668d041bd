// A program that knows nothing of Perdure: one word names what it does with the devices, and its status is 0 when that
// went as on Linux. It is built dynamic and static, and run under `perdure run`.
#include "tests/intercept/probe.h"

#include <cstdio>
#include <cstring>

namespace probe {

const Case*& first_case() {
  static const Case* first = nullptr;
  return first;
}

Case::Case(const char* its_name, int (*its_run)(int, char**)) : name(its_name), run(its_run), next(first_case()) {
  first_case() = this;
}

}  // namespace probe

int main(int argc, char** argv) {
  for (const probe::Case* c = probe::first_case(); c; c = c->next) {
    if (argc < 2) {
      std::printf("%s\n", c->name);
    } else if (std::strcmp(c->name, argv[1]) == 0) {
      const int status = c->run(argc - 2, argv + 2);
      std::printf("%s ends with %d\n", c->name, status);
      return status;
    }
  }
  if (argc < 2) return 0;
  std::fprintf(stderr, "no case '%s'\n", argv[1]);
  return 2;
}
