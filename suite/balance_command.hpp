// The parts of `pipemark balance`; each is a file balance_<part>.cpp.
#pragma once

namespace CLI {
class App;
}

namespace pipemark {

struct Invocation;

void add_balance_elastic(CLI::App& balance, Invocation& invocation);
void add_balance_experts(CLI::App& balance, Invocation& invocation);
void add_balance_partition(CLI::App& balance, Invocation& invocation);

}  // namespace pipemark
