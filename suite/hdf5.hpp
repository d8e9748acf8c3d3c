// HDF5 as this project uses it: handles that close themselves, one CHECK macro, and tables of plain
// structs. A Column names a member, its unit and (text) its width; the same list writes, reads and
// checks a compound dataset. Every table has an attribute `units`, a compound with the columns'
// names: h5py reads it as dataset.attrs["units"]["median_step_s"]. Text is of fixed length, deflate
// is the only filter, library bounds go up to v110.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/check.hpp"

namespace pipemark {

/// Throws EnvironmentError naming the call.
[[noreturn]] void hdf5_failed(const char* call, const char* file, int line);
#define PIPEMARK_HDF5_CHECK(call)                                    \
  [&] {                                                              \
    const auto pipemark_result = (call);                             \
    if (pipemark_result < 0) hdf5_failed(#call, __FILE__, __LINE__); \
    return pipemark_result;                                          \
  }()

/// An HDF5 identifier of any kind.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Handle() {
    if (id_ >= 0 && H5Iis_valid(id_) > 0) H5Idec_ref(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
};

template <class Row>
struct Column {
  const char* name;
  const char* units;  ///< "1" for pure numbers, "" for text
  std::variant<std::int64_t Row::*, int Row::*, double Row::*, bool Row::*, std::string Row::*>
      member;
  std::size_t width = 0;  ///< bytes of text
};

/// What a file must hold in one place of a table.
struct ColumnType {
  std::string name, units;
  enum Kind { int64, int32, real, boolean, text } kind = real;
  std::size_t width = 8;  ///< bytes
};

class Hdf5File {
 public:
  static Hdf5File create(const std::string& path);
  /// UserError when it is missing or no HDF5 file.
  static Hdf5File open(const std::string& path);

  void make_group(const std::string& path);
  bool has(const std::string& path) const;
  std::vector<std::string> names_in(const std::string& group) const;

  void write_attribute(const std::string& object, const char* name, const std::string& text);
  void write_attribute(const std::string& object, const char* name, std::int64_t value);
  std::string text_attribute(const std::string& object, const char* name) const;
  std::int64_t int_attribute(const std::string& object, const char* name) const;
  bool has_attribute(const std::string& object, const char* name) const;

  void write_packed(const std::string& path, const std::vector<ColumnType>& columns,
                    const std::string& bytes, std::size_t rows);
  /// UserError naming dataset and column where type, name or units differ.
  std::string read_packed(const std::string& path, const std::vector<ColumnType>& columns,
                          std::size_t* rows) const;
  /// A dataset of numbers, row by row, converted to float32. UserError where it is none.
  std::vector<float> read_floats(const std::string& path, std::vector<std::size_t>* shape) const;
  void close() { file_ = Handle(); }

 private:
  Handle file_;
  std::string path_;
};

template <class Row>
std::vector<ColumnType> column_types(const std::vector<Column<Row>>& columns) {
  std::vector<ColumnType> types;
  for (const auto& c : columns) {
    const auto kind = static_cast<ColumnType::Kind>(c.member.index() == 0   ? ColumnType::int64
                                                    : c.member.index() == 1 ? ColumnType::int32
                                                    : c.member.index() == 2 ? ColumnType::real
                                                    : c.member.index() == 3 ? ColumnType::boolean
                                                                            : ColumnType::text);
    const std::size_t width = kind == ColumnType::text      ? c.width
                              : kind == ColumnType::boolean ? 1
                              : kind == ColumnType::int32   ? 4
                                                            : 8;
    types.push_back({c.name, c.units, kind, width});
  }
  return types;
}

void pack_value(std::string& bytes, const ColumnType& type, std::int64_t value);
void pack_value(std::string& bytes, const ColumnType& type, double value);
void pack_value(std::string& bytes, const ColumnType& type, const std::string& value);
void unpack_value(const char*& at, const ColumnType& type, std::int64_t& value);
void unpack_value(const char*& at, const ColumnType& type, double& value);
void unpack_value(const char*& at, const ColumnType& type, std::string& value);

template <class Row>
void write_table(Hdf5File& file, const std::string& path, const std::vector<Column<Row>>& columns,
                 const std::vector<Row>& rows) {
  const auto types = column_types(columns);
  std::string bytes;
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      std::visit(
          [&](auto member) {
            using Value = std::decay_t<decltype(row.*member)>;
            if constexpr (std::is_integral_v<Value>) {
              pack_value(bytes, types[c], static_cast<std::int64_t>(row.*member));
            } else {
              pack_value(bytes, types[c], row.*member);
            }
          },
          columns[c].member);
    }
  }
  file.write_packed(path, types, bytes, rows.size());
}

template <class Row>
std::vector<Row> read_table(const Hdf5File& file, const std::string& path,
                            const std::vector<Column<Row>>& columns) {
  const auto types = column_types(columns);
  std::size_t count = 0;
  const std::string bytes = file.read_packed(path, types, &count);
  const char* at = bytes.data();
  std::vector<Row> rows(count);
  for (Row& row : rows) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      std::visit(
          [&](auto member) {
            using Value = std::decay_t<decltype(row.*member)>;
            if constexpr (std::is_integral_v<Value>) {
              std::int64_t value = 0;
              unpack_value(at, types[c], value);
              row.*member = static_cast<Value>(value);
            } else {
              unpack_value(at, types[c], row.*member);
            }
          },
          columns[c].member);
    }
  }
  return rows;
}

}  // namespace pipemark
