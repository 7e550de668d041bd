// System calls that wait for an answer, wherever they come from.
#pragma once
#include "machine/host/listener.h"
#include "machine/host/system_calls.h"

namespace perdure::intercept {

using host::Answers;
using host::Listener;
using host::SystemCall;

}  // namespace perdure::intercept
