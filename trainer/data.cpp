#include "trainer/data.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "kernels/check.hpp"
#include "trainer/nearest_name.hpp"
#include "trainer/random.hpp"

namespace pipemark {

namespace {
// llm.c's header (dataloader.h): 256 int32, the first three are magic, version, count.
constexpr std::int32_t kMagic = 20240520, kVersion = 1;
constexpr std::int64_t kHeaderBytes = 256 * 4;
// Its files of uint32 tokens (Llama 3).
constexpr std::int32_t kMagicWide = 20240801;
// CounterRandom stream of the batches of a step; tensors use streams from 0 up.
constexpr std::uint64_t kBatchStream = 1ULL << 32;

/// How often b followed a: a table where it is small, else a map of the pairs that occur.
class PairCounts {
 public:
  explicit PairCounts(std::size_t vocabulary)
      : vocabulary_(vocabulary),
        table_(vocabulary <= kTableUpTo ? vocabulary * vocabulary : 0, 0) {}
  std::int64_t& at(std::size_t a, std::size_t b) {
    const std::size_t key = a * vocabulary_ + b;
    return table_.empty() ? map_[key] : table_[key];
  }

 private:
  static constexpr std::size_t kTableUpTo = 2048;  // 32 MiB
  std::size_t vocabulary_;
  std::vector<std::int64_t> table_;
  std::unordered_map<std::size_t, std::int64_t> map_;
};
}  // namespace

/// A read-only map of a whole file.
struct Dataset::File {
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;

  explicit File(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (fd < 0 || ::fstat(fd, &info) != 0) {
      const int error = errno;
      if (fd >= 0) ::close(fd);
      throw UserError(fmt::format("data.train = \"{}\": {}", path, std::strerror(error)),
                      "give the path of a text file, or of a file of uint16 tokens");
    }
    bytes = info.st_size;
    void* map = MAP_FAILED;
    if (S_ISREG(info.st_mode) && bytes > 0) {
      map = ::mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ, MAP_PRIVATE, fd, 0);
    }
    ::close(fd);
    if (map == MAP_FAILED) {
      const bool empty = S_ISREG(info.st_mode) && bytes == 0;
      throw UserError(fmt::format("data.train = \"{}\": {}", path,
                                  empty ? "the file is empty" : "not a file that can be mapped"),
                      "give the path of a text file, or of a file of uint16 tokens");
    }
    data = static_cast<const std::byte*>(map);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::munmap(const_cast<std::byte*>(data), static_cast<std::size_t>(bytes)); }
};

Dataset::~Dataset() = default;
Dataset::Dataset(Dataset&&) noexcept = default;

Dataset::Dataset(const DataConfig& data, const ModelConfig& model, std::uint64_t seed)
    : path_(data.train), context_(model.context), vocabulary_(model.vocabulary), seed_(seed) {
  if (data.format != "bytes" && data.format != "uint16") {
    throw UserError(fmt::format("data.format = \"{}\" is not known", data.format),
                    fmt::format("did you mean \"{}\"? known: bytes, uint16",
                                nearest_name(data.format, {"bytes", "uint16"})));
  }
  if (!(data.validation_fraction >= 0 && data.validation_fraction < 1)) {
    throw UserError(fmt::format("data.validation_fraction = {}", data.validation_fraction),
                    "data.validation_fraction must be at least 0 and below 1");
  }
  if (path_.empty()) throw UserError("data.train is not given", "give the path of a text file");
  file_ = std::make_unique<File>(path_);
  wide_ = data.format == "uint16";
  data_ = file_->data;
  size_ = wide_ ? find_tokens() : file_->bytes;
  const auto validation =
      static_cast<std::int64_t>(static_cast<double>(size_) * data.validation_fraction);
  training_ = size_ - validation;
  const auto check_length = [&](std::int64_t tokens, const char* split) {
    if (tokens > context_) return;
    throw UserError(fmt::format("data.train = \"{}\": {} tokens for {}, a sequence needs {}", path_,
                                tokens, split, context_ + 1),
                    "use a longer file, or lower model.context");
  };
  check_length(training_, "training");
  if (data.validation_fraction > 0) check_length(validation, "validation");
  check_tokens();
}

std::int64_t Dataset::find_tokens() {
  std::int32_t header[3] = {0, 0, 0};
  std::memcpy(header, data_,
              std::min<std::size_t>(sizeof(header), static_cast<std::size_t>(file_->bytes)));
  const char* hint = "uint16 files are raw tokens (nanoGPT) or llm.c's: magic 20240520, version 1";
  if (header[0] == kMagicWide) {
    throw UserError(fmt::format("data.train = \"{}\": uint32 tokens (magic {})", path_, kMagicWide),
                    hint);
  }
  if (header[0] == kMagic) {
    const std::int64_t held = (file_->bytes - kHeaderBytes) / 2;
    if (header[1] != kVersion || header[2] < 0 || held < header[2]) {
      throw UserError(fmt::format("data.train = \"{}\": a header of version {} and {} tokens, the "
                                  "file has room for {}",
                                  path_, header[1], header[2], std::max<std::int64_t>(held, 0)),
                      hint);
    }
    data_ += kHeaderBytes;
    return header[2];
  }
  if (file_->bytes % 2 != 0) {
    throw UserError(
        fmt::format("data.train = \"{}\": {} bytes are no whole number of uint16 tokens", path_,
                    file_->bytes),
        "is it text? then data.format = \"bytes\"");
  }
  return file_->bytes / 2;
}

std::int32_t Dataset::token(std::int64_t position) const {
  if (!wide_) return std::to_integer<std::int32_t>(data_[position]);
  return std::to_integer<std::int32_t>(data_[2 * position]) |
         std::to_integer<std::int32_t>(data_[2 * position + 1]) << 8;
}

void Dataset::check_tokens() const {
  if (vocabulary_ > (wide_ ? 0xFFFF : 0xFF)) return;
  for (std::int64_t i = 0; i < size_; ++i) {
    if (token(i) < vocabulary_) continue;
    throw UserError(fmt::format("data.train = \"{}\": token {} at position {} is not below "
                                "model.vocabulary = {}",
                                path_, token(i), i, vocabulary_),
                    wide_
                        ? "raise model.vocabulary to the tokenizer's"
                        : "bytes need model.vocabulary = 256 unless the text is plain ASCII (128)");
  }
}

void Dataset::copy_window(std::int64_t start, std::span<std::int32_t> tokens,
                          std::span<std::int32_t> targets) const {
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    tokens[t] = token(start + static_cast<std::int64_t>(t));
    targets[t] = token(start + static_cast<std::int64_t>(t) + 1);
  }
}

template <class Start>
void Dataset::copy_windows(int count, std::span<std::int32_t> tokens,
                           std::span<std::int32_t> targets, const Start& start) const {
  const auto T = static_cast<std::size_t>(context_);
  const auto total = static_cast<std::size_t>(count) * T;
  check(tokens.size() == total && targets.size() == total,
        "Dataset: room for {} and {} tokens of {}", tokens.size(), targets.size(), total);
  for (int i = 0; i < count; ++i) {
    const std::size_t at = static_cast<std::size_t>(i) * T;
    copy_window(start(i), tokens.subspan(at, T), targets.subspan(at, T));
  }
}

void Dataset::batch(std::int64_t step, int batch, int first, int count,
                    std::span<std::int32_t> tokens, std::span<std::int32_t> targets) const {
  const CounterRandom random(seed_, kBatchStream);
  const auto starts = static_cast<std::uint64_t>(training_ - context_);
  copy_windows(count, tokens, targets, [&](int i) {
    const std::int64_t sequence = step * batch + first + i;
    return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(sequence), starts));
  });
}

void Dataset::validation_batch(std::int64_t step, int batch, int first, int count,
                               std::span<std::int32_t> tokens,
                               std::span<std::int32_t> targets) const {
  const std::int64_t windows = (validation_tokens() - 1) / context_;
  check(windows > 0, "Dataset::validation_batch without a validation split");
  copy_windows(count, tokens, targets,
               [&](int i) { return training_ + (step * batch + first + i) % windows * context_; });
}

double Dataset::bigram_validation_loss() const {
  if (validation_tokens() < 2) return -1;
  const auto V = static_cast<std::size_t>(vocabulary_);
  std::vector<std::int64_t> unigram(V, 0), followers(V, 0), context(V, 0);
  PairCounts pairs(V);
  std::size_t last = 0;
  for (std::int64_t i = 0; i < training_; ++i) {
    const auto b = static_cast<std::size_t>(token(i));
    ++unigram[b];
    if (i > 0) {
      ++context[last];
      if (++pairs.at(last, b) == 1) ++followers[last];
    }
    last = b;
  }
  double loss = 0;
  for (std::int64_t i = training_; i + 1 < size_; ++i) {
    const auto a = static_cast<std::size_t>(token(i)), b = static_cast<std::size_t>(token(i + 1));
    const double p_b =
        (static_cast<double>(unigram[b]) + 1) / static_cast<double>(training_ + vocabulary_);
    // A context seen n times with t different followers keeps t / (n + t) for new ones.
    const auto n = static_cast<double>(context[a]), t = static_cast<double>(followers[a]);
    const auto seen = static_cast<double>(pairs.at(a, b));
    loss -= std::log(n + t > 0 ? (seen + t * p_b) / (n + t) : p_b);
  }
  return loss / static_cast<double>(size_ - 1 - training_);
}

}  // namespace pipemark
