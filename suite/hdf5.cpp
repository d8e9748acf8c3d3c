#include "suite/hdf5.hpp"

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace pipemark {

void hdf5_failed(const char* call, const char* file, int line) {
  throw EnvironmentError(fmt::format("HDF5 failed in {} ({}:{})", call, file, line),
                         "is the disk full, or the file damaged or open elsewhere?");
}

namespace {
constexpr unsigned kDeflateLevel = 4;
constexpr hsize_t kChunkRows = 4096;

Handle text_type(std::size_t width) {
  Handle type(PIPEMARK_HDF5_CHECK(H5Tcopy(H5T_C_S1)));
  PIPEMARK_HDF5_CHECK(H5Tset_size(type, std::max<std::size_t>(width, 1)));
  PIPEMARK_HDF5_CHECK(H5Tset_strpad(type, H5T_STR_NULLTERM));
  PIPEMARK_HDF5_CHECK(H5Tset_cset(type, H5T_CSET_UTF8));
  return type;
}

/// As h5py writes a bool.
Handle boolean_type() {
  Handle type(PIPEMARK_HDF5_CHECK(H5Tenum_create(H5T_NATIVE_INT8)));
  const std::int8_t no = 0, yes = 1;
  PIPEMARK_HDF5_CHECK(H5Tenum_insert(type, "FALSE", &no));
  PIPEMARK_HDF5_CHECK(H5Tenum_insert(type, "TRUE", &yes));
  return type;
}

Handle member_type(const ColumnType& column) {
  switch (column.kind) {
    case ColumnType::int64:
      return Handle(PIPEMARK_HDF5_CHECK(H5Tcopy(H5T_NATIVE_INT64)));
    case ColumnType::int32:
      return Handle(PIPEMARK_HDF5_CHECK(H5Tcopy(H5T_NATIVE_INT32)));
    case ColumnType::real:
      return Handle(PIPEMARK_HDF5_CHECK(H5Tcopy(H5T_NATIVE_DOUBLE)));
    case ColumnType::boolean:
      return boolean_type();
    case ColumnType::text:
      return text_type(column.width);
  }
  return Handle();
}

Handle row_type(const std::vector<ColumnType>& columns) {
  std::size_t size = 0;
  for (const auto& column : columns) size += column.width;
  Handle type(PIPEMARK_HDF5_CHECK(H5Tcreate(H5T_COMPOUND, size)));
  std::size_t offset = 0;
  for (const auto& column : columns) {
    PIPEMARK_HDF5_CHECK(H5Tinsert(type, column.name.c_str(), offset, member_type(column)));
    offset += column.width;
  }
  return type;
}

/// The `units` attribute's columns: the same names, each a short text.
std::vector<ColumnType> units_columns(const std::vector<ColumnType>& columns) {
  constexpr std::size_t kUnitWidth = 16;
  std::vector<ColumnType> units;
  for (const auto& column : columns) {
    units.push_back({column.name, "", ColumnType::text, kUnitWidth});
  }
  return units;
}

Handle open_object(hid_t file, const std::string& path) {
  return Handle(PIPEMARK_HDF5_CHECK(H5Oopen(file, path.c_str(), H5P_DEFAULT)));
}
}  // namespace

Hdf5File Hdf5File::create(const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const Handle access(PIPEMARK_HDF5_CHECK(H5Pcreate(H5P_FILE_ACCESS)));
  PIPEMARK_HDF5_CHECK(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110));
  Hdf5File file;
  file.path_ = path;
  file.file_ =
      Handle(PIPEMARK_HDF5_CHECK(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access)));
  return file;
}

Hdf5File Hdf5File::open(const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  if (!std::filesystem::exists(path)) {
    throw UserError(fmt::format("{}: no such file", path), "give the path of a result file (.h5)");
  }
  if (H5Fis_hdf5(path.c_str()) <= 0) {
    throw UserError(fmt::format("{}: not an HDF5 file, or damaged", path),
                    "give a result file that pipemark train or sweep wrote");
  }
  Hdf5File file;
  file.path_ = path;
  file.file_ = Handle(PIPEMARK_HDF5_CHECK(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)));
  return file;
}

void Hdf5File::make_group(const std::string& path) {
  const Handle group(
      PIPEMARK_HDF5_CHECK(H5Gcreate2(file_, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)));
}

bool Hdf5File::has(const std::string& path) const {
  for (auto slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    if (H5Lexists(file_, path.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return true;
  }
}

std::vector<std::string> Hdf5File::names_in(const std::string& group) const {
  std::vector<std::string> names;
  const Handle object(PIPEMARK_HDF5_CHECK(H5Gopen2(file_, group.c_str(), H5P_DEFAULT)));
  PIPEMARK_HDF5_CHECK(H5Literate(
      object, H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5L_info_t*, void* list) -> herr_t {
        static_cast<std::vector<std::string>*>(list)->push_back(name);
        return 0;
      },
      &names));
  return names;
}

void Hdf5File::write_attribute(const std::string& object, const char* name,
                               const std::string& text) {
  // Attributes of an object header end at 64 KiB; what is longer is cut and says so.
  constexpr std::size_t kMost = 60000;
  const std::string kept = text.size() <= kMost ? text : text.substr(0, kMost) + "\n(cut here)";
  const Handle at = open_object(file_, object), type = text_type(kept.size() + 1);
  const Handle space(PIPEMARK_HDF5_CHECK(H5Screate(H5S_SCALAR)));
  const Handle attribute(
      PIPEMARK_HDF5_CHECK(H5Acreate2(at, name, type, space, H5P_DEFAULT, H5P_DEFAULT)));
  PIPEMARK_HDF5_CHECK(H5Awrite(attribute, type, kept.c_str()));
}

void Hdf5File::write_attribute(const std::string& object, const char* name, std::int64_t value) {
  const Handle at = open_object(file_, object);
  const Handle space(PIPEMARK_HDF5_CHECK(H5Screate(H5S_SCALAR)));
  const Handle attribute(
      PIPEMARK_HDF5_CHECK(H5Acreate2(at, name, H5T_NATIVE_INT64, space, H5P_DEFAULT, H5P_DEFAULT)));
  PIPEMARK_HDF5_CHECK(H5Awrite(attribute, H5T_NATIVE_INT64, &value));
}

bool Hdf5File::has_attribute(const std::string& object, const char* name) const {
  return H5Aexists_by_name(file_, object.c_str(), name, H5P_DEFAULT) > 0;
}

std::string Hdf5File::text_attribute(const std::string& object, const char* name) const {
  const Handle attribute(H5Aopen_by_name(file_, object.c_str(), name, H5P_DEFAULT, H5P_DEFAULT));
  const Handle stored(attribute < 0 ? -1 : H5Aget_type(attribute));
  if (stored < 0 || H5Tget_class(stored) != H5T_STRING || H5Tis_variable_str(stored) > 0) {
    throw UserError(fmt::format("{}: attribute {} of {} is missing or no fixed-length text", path_,
                                name, object),
                    "the file is of another format or schema");
  }
  std::string text(H5Tget_size(stored), '\0');
  PIPEMARK_HDF5_CHECK(H5Aread(attribute, text_type(text.size()), text.data()));
  text.resize(std::strlen(text.c_str()));
  return text;
}

std::int64_t Hdf5File::int_attribute(const std::string& object, const char* name) const {
  const Handle attribute(H5Aopen_by_name(file_, object.c_str(), name, H5P_DEFAULT, H5P_DEFAULT));
  std::int64_t value = 0;
  if (attribute < 0 || H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0) {
    throw UserError(
        fmt::format("{}: attribute {} of {} is missing or no number", path_, name, object),
        "the file is of another format or schema");
  }
  return value;
}

void Hdf5File::write_packed(const std::string& path, const std::vector<ColumnType>& columns,
                            const std::string& bytes, std::size_t rows) {
  const Handle type = row_type(columns);
  const hsize_t size = rows, most = H5S_UNLIMITED;
  const hsize_t chunk = std::clamp<hsize_t>(rows, 1, kChunkRows);
  const Handle space(PIPEMARK_HDF5_CHECK(H5Screate_simple(1, &size, &most)));
  const Handle creation(PIPEMARK_HDF5_CHECK(H5Pcreate(H5P_DATASET_CREATE)));
  PIPEMARK_HDF5_CHECK(H5Pset_chunk(creation, 1, &chunk));
  PIPEMARK_HDF5_CHECK(H5Pset_deflate(creation, kDeflateLevel));
  const Handle dataset(PIPEMARK_HDF5_CHECK(
      H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT)));
  if (rows > 0) {
    PIPEMARK_HDF5_CHECK(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()));
  }
  const auto units = units_columns(columns);
  std::string text;
  for (std::size_t c = 0; c < columns.size(); ++c) pack_value(text, units[c], columns[c].units);
  const Handle units_type = row_type(units);
  const Handle scalar(PIPEMARK_HDF5_CHECK(H5Screate(H5S_SCALAR)));
  const Handle attribute(PIPEMARK_HDF5_CHECK(
      H5Acreate2(dataset, "units", units_type, scalar, H5P_DEFAULT, H5P_DEFAULT)));
  PIPEMARK_HDF5_CHECK(H5Awrite(attribute, units_type, text.data()));
}

std::string Hdf5File::read_packed(const std::string& path, const std::vector<ColumnType>& columns,
                                  std::size_t* rows) const {
  const auto refuse = [&](const std::string& what) {
    throw UserError(fmt::format("{}: {}: {}", path_, path, what),
                    "the file was not written by this schema, or was changed");
  };
  if (!has(path)) refuse("the dataset is missing");
  const Handle dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT));
  if (dataset < 0) refuse("it is no dataset");
  const Handle stored(PIPEMARK_HDF5_CHECK(H5Dget_type(dataset)));
  if (H5Tget_class(stored) != H5T_COMPOUND) refuse("it is no table");
  if (H5Tget_nmembers(stored) != static_cast<int>(columns.size())) {
    refuse(fmt::format("{} columns instead of {}", H5Tget_nmembers(stored), columns.size()));
  }
  for (const auto& column : columns) {
    const int index = H5Tget_member_index(stored, column.name.c_str());
    if (index < 0) refuse(fmt::format("column {} is missing", column.name));
    const Handle member(H5Tget_member_type(stored, static_cast<unsigned>(index)));
    if (H5Tequal(member, member_type(column)) <= 0) {
      refuse(fmt::format("column {} has another type", column.name));
    }
  }
  const Handle attribute(H5Aopen(dataset, "units", H5P_DEFAULT));
  if (attribute < 0) refuse("attribute units is missing");
  const auto units = units_columns(columns);
  std::string text(units.size() * units.front().width, '\0');
  if (H5Aread(attribute, row_type(units), text.data()) < 0) refuse("attribute units is damaged");
  const char* at = text.data();
  for (std::size_t c = 0; c < columns.size(); ++c) {
    std::string unit;
    unpack_value(at, units[c], unit);
    if (unit != columns[c].units) {
      refuse(fmt::format("column {} is in \"{}\" instead of \"{}\"", columns[c].name, unit,
                         columns[c].units));
    }
  }
  const Handle space(PIPEMARK_HDF5_CHECK(H5Dget_space(dataset)));
  *rows = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space));
  const Handle type = row_type(columns);
  std::string bytes(*rows * H5Tget_size(type), '\0');
  if (*rows > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()) < 0) {
    refuse("its data can't be read");
  }
  return bytes;
}

namespace {
template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}
template <class T>
T take(const char*& at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  at += sizeof value;
  return value;
}
}  // namespace

void pack_value(std::string& bytes, const ColumnType& type, std::int64_t value) {
  if (type.kind == ColumnType::int64) append(bytes, value);
  if (type.kind == ColumnType::int32) append(bytes, static_cast<std::int32_t>(value));
  if (type.kind == ColumnType::boolean) append(bytes, static_cast<std::int8_t>(value != 0));
}
void pack_value(std::string& bytes, const ColumnType&, double value) { append(bytes, value); }
void pack_value(std::string& bytes, const ColumnType& type, const std::string& value) {
  std::string text = value.substr(0, type.width - 1);  // the last byte ends it
  text.resize(type.width, '\0');
  bytes += text;
}
void unpack_value(const char*& at, const ColumnType& type, std::int64_t& value) {
  if (type.kind == ColumnType::int64) value = take<std::int64_t>(at);
  if (type.kind == ColumnType::int32) value = take<std::int32_t>(at);
  if (type.kind == ColumnType::boolean) value = take<std::int8_t>(at);
}
void unpack_value(const char*& at, const ColumnType&, double& value) { value = take<double>(at); }
void unpack_value(const char*& at, const ColumnType& type, std::string& value) {
  value.assign(at, strnlen(at, type.width));
  at += type.width;
}

std::vector<float> Hdf5File::read_floats(const std::string& path,
                                         std::vector<std::size_t>* shape) const {
  const auto refuse = [&](const std::string& what) {
    throw UserError(fmt::format("{}: {}: {}", path_, path, what),
                    "name a dataset of whole numbers or floating-point numbers");
  };
  if (!has(path)) refuse("the dataset is missing");
  const Handle dataset(H5Dopen2(file_, path.c_str(), H5P_DEFAULT));
  if (dataset < 0) refuse("it is no dataset");
  const Handle stored(PIPEMARK_HDF5_CHECK(H5Dget_type(dataset)));
  const H5T_class_t kind = H5Tget_class(stored);
  if (kind != H5T_INTEGER && kind != H5T_FLOAT) refuse("it holds no numbers");
  const Handle space(PIPEMARK_HDF5_CHECK(H5Dget_space(dataset)));
  std::vector<hsize_t> sizes(
      static_cast<std::size_t>(std::max(0, H5Sget_simple_extent_ndims(space))));
  PIPEMARK_HDF5_CHECK(H5Sget_simple_extent_dims(space, sizes.data(), nullptr));
  shape->assign(sizes.begin(), sizes.end());
  std::vector<float> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  if (!values.empty() &&
      H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) {
    refuse("it cannot be read");
  }
  return values;
}

}  // namespace pipemark
