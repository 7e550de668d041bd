// The interface lies where its implementation can see it.
#pragma once
#include "core/pci/bus_master.h"
