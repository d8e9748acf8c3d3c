// Groups of the grid, sums of a fixed order, clocks, and waits that end. 2, 4 and 8 ranks.
#include "trainer/cluster.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/check.hpp"
#include "trainer/transport.hpp"

namespace pipemark {
namespace {

using ::testing::HasSubstr;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

template <class T>
std::vector<T> values_of(int rank, std::size_t size) {
  std::mt19937 random(static_cast<unsigned>(17 + rank));
  std::uniform_real_distribution<double> exponent(-12, 12), sign(-1, 1);
  std::vector<T> values(size);
  for (T& v : values) v = static_cast<T>(sign(random) * std::exp2(exponent(random)));
  return values;
}

template <class T>
std::vector<T> sum_in_order(const std::vector<int>& order, std::size_t size) {
  std::vector<T> sum = values_of<T>(order[0], size);
  for (std::size_t k = 1; k < order.size(); ++k) {
    const std::vector<T> more = values_of<T>(order[k], size);
    for (std::size_t i = 0; i < size; ++i) sum[i] += more[i];
  }
  return sum;
}

template <class T>
class OrderedSum : public ::testing::Test {};
using SumTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(OrderedSum, SumTypes);

TYPED_TEST(OrderedSum, IsBitwiseTheSumInRankOrder) {
  Group& world = cluster().world();
  const auto n = static_cast<std::size_t>(world.size());
  std::vector<int> order(n);
  for (std::size_t r = 0; r < n; ++r) order[r] = static_cast<int>(r);
  // Around the block's edges: fewer elements than ranks, one block, a bit more than two.
  for (std::size_t size : {std::size_t{1}, n - 1, n, n + 1, std::size_t{1000}, 2 * 65536 * n + 3}) {
    std::vector<TypeParam> values = values_of<TypeParam>(world.rank(), size);
    world.allreduce_sum(std::span(values), "test values");
    EXPECT_EQ(values, sum_in_order<TypeParam>(order, size)) << size << " elements";
  }
}

TEST(Group, AnotherOrderGivesAnotherSum) {
  // So that the test above can fail: the order is visible in these values.
  if (cluster().size() < 3) GTEST_SKIP() << "a sum of two has no order";
  std::vector<int> order(static_cast<std::size_t>(cluster().size()));
  for (std::size_t r = 0; r < order.size(); ++r) order[r] = static_cast<int>(r);
  const auto forward = sum_in_order<float>(order, 1000);
  std::reverse(order.begin(), order.end());
  EXPECT_NE(forward, sum_in_order<float>(order, 1000));
}

TEST(Group, MinAndMaxAndBroadcastAndGather) {
  Group& world = cluster().world();
  const int n = world.size(), me = world.rank();
  EXPECT_EQ(world.allreduce_max(me), n - 1);
  EXPECT_EQ(world.allreduce_min(me + 3.0), 3);
  EXPECT_EQ(world.broadcast(me == n - 1 ? std::string("a longer text") : "x", n - 1),
            "a longer text");
  const std::vector<std::string> all =
      world.all_gather(std::string(static_cast<std::size_t>(me), 'x'));
  ASSERT_EQ(static_cast<int>(all.size()), n);
  for (int r = 0; r < n; ++r)
    EXPECT_EQ(static_cast<int>(all[static_cast<std::size_t>(r)].size()), r);
  const std::vector<double> own(static_cast<std::size_t>(me), me);
  const auto rows = world.gather(std::span<const double>(own));
  EXPECT_EQ(static_cast<int>(rows.size()), me == 0 ? n : 0);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    EXPECT_EQ(rows[r], std::vector<double>(r, static_cast<double>(r)));
  }
}

TEST(Grid, RanksAreDataByPipelineByExpert) {
  const int n = cluster().size();
  const int me = cluster().rank();
  Grid grid = cluster().make_grid(n / 2, 2);
  EXPECT_EQ(grid.pipeline_rank, me % (n / 2));
  EXPECT_EQ(grid.data_rank, me / (n / 2));
  EXPECT_EQ(grid.pipeline.size(), n / 2);
  EXPECT_EQ(grid.data.size(), 2);
  EXPECT_EQ(grid.data.world_rank(1 - grid.data_rank), (me + n / 2) % n);
  EXPECT_EQ(grid.pipeline.allreduce_sum(double(me)),
            grid.data_rank * (n / 2) * (n / 2) + (n / 2) * (n / 2 - 1) / 2);
  EXPECT_EQ(grid.expert.size(), 1);
}

TEST(Grid, AWrongProductIsTheUsersMistake) {
  try {
    cluster().make_grid(cluster().size(), 3);
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("data = 3"));
    EXPECT_THAT(error.hint(), HasSubstr(fmt::format("mpirun -n {}", 3 * cluster().size())));
  }
}

TEST(Cluster, KnowsItsHostAndCores) {
  Cluster& c = cluster();
  EXPECT_FALSE(c.host().empty());
  EXPECT_EQ(c.node_count(), 1);
  EXPECT_EQ(c.local_size(), c.size());
  EXPECT_EQ(c.local_rank(), c.rank());
  EXPECT_DOUBLE_EQ(c.ranks_per_core() * c.local_cores(), c.size());
  EXPECT_EQ(c.oversubscribed(), c.size() > c.local_cores());
  EXPECT_THAT(c.mpi_library(), ::testing::Not(::testing::IsEmpty()));
}

TEST(Cluster, ClocksOfOneMachineAgreeWithinTheErrorOfTheirComparison) {
  EXPECT_EQ(cluster().clock_offset().offset_s, 0);
  const ClockOffset measured = cluster().measure_clock_offset();
  EXPECT_LE(std::abs(measured.offset_s), measured.error_s);
  EXPECT_EQ(measured.error_s > 0, cluster().rank() != 0);
}

// Last: a wait that failed is remembered (MPI_Finalize could hang), so nothing is freed after it.
TEST(ClusterFailure, ABarrierThatAPeerMissesEndsWithANamedOperation) {
  Group group = cluster().split(0, cluster().rank(), "pipeline group");
  cluster().set_timeout(0.2);
  Group hurried = cluster().split(0, cluster().rank(), "data group");
  cluster().set_timeout(30);
  if (cluster().rank() == 0) {
    try {
      hurried.barrier();
      ADD_FAILURE() << "the barrier of one rank passed";
    } catch (const TransportError& error) {
      EXPECT_THAT(error.what(), ::testing::MatchesRegex(
                                    "rank 0 waited [0-9.]+ s in a barrier \\(data group of .\\)"));
    }
  }
  group.barrier();
  if (cluster().rank() != 0) hurried.barrier();  // meets rank 0's half-done one
}

TEST(ClusterFailure, ASumNamesTheRankThatIsMissing) {
  Group group = cluster().split(0, cluster().rank(), "pipeline group");
  cluster().set_timeout(0.2);
  Group hurried = cluster().split(0, cluster().rank(), "data group");
  cluster().set_timeout(30);
  const int late = cluster().size() - 1;
  std::vector<float> values(10, 1.0f);
  if (cluster().rank() != late) {
    try {
      hurried.allreduce_sum(std::span(values), "gradients");
      ADD_FAILURE() << "summed without a rank";
    } catch (const TransportError& error) {
      EXPECT_THAT(error.what(),
                  HasSubstr(fmt::format("in the sum of gradients for rank {}", late)));
    }
  }
  group.barrier();
}

}  // namespace
}  // namespace pipemark
