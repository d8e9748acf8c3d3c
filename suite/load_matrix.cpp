#include "suite/load_matrix.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/check.hpp"
#include "suite/hdf5.hpp"

namespace pipemark {

namespace {
constexpr const char* kHint =
    "give loads by layer and expert: JSON [[1, 2], [3, 4]], CSV, or an HDF5 dataset";

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw UserError(fmt::format("{}: {}", path, what), kHint);
}

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (!in) throw UserError(fmt::format("{}: cannot be read", path), kHint);
  text << in.rdbuf();
  if (!in || text.str().empty()) refuse(path, "the file is empty");
  return text.str();
}

nlohmann::json parse_json(const std::string& path, const std::string& text) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    const auto upto = std::min(error.byte, text.size());
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(upto), '\n');
    throw UserError(fmt::format("{}:{}: it is no JSON", path, line), kHint);
  }
}

void check_load(const std::string& path, int row, int column, float load) {
  if (std::isfinite(load) && load >= 0) return;
  refuse(path, fmt::format("layer {}, expert {}: a load of {}", row, column, load));
}

/// Rows of equal length; `convert(value, row, column)`.
template <class T, class Convert>
Matrix<T> matrix_of_json(const std::string& path, const nlohmann::json& json, Convert convert) {
  if (!json.is_array() || json.empty()) refuse(path, "it is no array of rows");
  const bool one_row = !json.front().is_array();
  const int rows = one_row ? 1 : static_cast<int>(json.size());
  const auto& first = one_row ? json : json.front();
  Matrix<T> matrix(rows, static_cast<int>(first.size()));
  for (int r = 0; r < rows; ++r) {
    const auto& row = one_row ? json : json[static_cast<std::size_t>(r)];
    if (!row.is_array() || row.size() != first.size()) {
      refuse(path,
             fmt::format("layer {} has {} values, layer 0 has {}", r, row.size(), first.size()));
    }
    for (int c = 0; c < matrix.columns; ++c) {
      const auto& value = row[static_cast<std::size_t>(c)];
      if (!value.is_number()) {
        refuse(path, fmt::format("layer {}, expert {}: {} is no number", r, c, value.dump()));
      }
      matrix.row(r)[c] = convert(value, r, c);
    }
  }
  return matrix;
}

Matrix<float> loads_of_json(const std::string& path, const std::string& text) {
  return matrix_of_json<float>(path, parse_json(path, text), [&](const auto& value, int r, int c) {
    // Whole numbers go to float32 at once: by way of a double large ones may round twice.
    const float load =
        value.is_number_unsigned()  ? static_cast<float>(value.template get<std::uint64_t>())
        : value.is_number_integer() ? static_cast<float>(value.template get<std::int64_t>())
                                    : static_cast<float>(value.template get<double>());
    check_load(path, r, c, load);
    return load;
  });
}

/// False where a field is no number.
bool numbers_of_line(const std::string& line, std::vector<float>& numbers, std::string& wrong) {
  numbers.clear();
  std::istringstream fields(line);
  std::string field;
  while (std::getline(fields, field, ',')) {
    const auto begin = field.find_first_not_of(" \t\r"), end = field.find_last_not_of(" \t\r");
    wrong = begin == std::string::npos ? "" : field.substr(begin, end - begin + 1);
    double value = 0;
    const auto [next, error] = std::from_chars(wrong.data(), wrong.data() + wrong.size(), value);
    if (error != std::errc{} || next != wrong.data() + wrong.size()) return false;
    numbers.push_back(static_cast<float>(value));
  }
  return !numbers.empty();
}

Matrix<float> loads_of_csv(const std::string& path, const std::string& text) {
  std::istringstream lines(text);
  std::string line, wrong;
  std::vector<float> numbers;
  Matrix<float> loads;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (!numbers_of_line(line, numbers, wrong)) {
      if (number == 1) continue;  // the columns' names
      throw UserError(fmt::format("{}:{}: \"{}\" is no number", path, number, wrong), kHint);
    }
    if (loads.rows == 0) loads.columns = static_cast<int>(numbers.size());
    if (static_cast<int>(numbers.size()) != loads.columns) {
      throw UserError(fmt::format("{}:{}: {} values, the lines before have {}", path, number,
                                  numbers.size(), loads.columns),
                      kHint);
    }
    for (int c = 0; c < loads.columns; ++c) {
      check_load(path, loads.rows, c, numbers[static_cast<std::size_t>(c)]);
    }
    loads.values.insert(loads.values.end(), numbers.begin(), numbers.end());
    ++loads.rows;
  }
  if (loads.rows == 0) refuse(path, "it has no numbers");
  return loads;
}

Matrix<float> loads_of_hdf5(const std::string& path, std::string dataset) {
  const Hdf5File file = Hdf5File::open(path);
  if (dataset.empty()) {
    const auto names = file.names_in("/");
    dataset = names.size() == 1 && !file.has("loads") ? names.front() : "loads";
  }
  std::vector<std::size_t> shape;
  Matrix<float> loads;
  loads.values = file.read_floats(dataset, &shape);
  if (shape.empty() || shape.size() > 2 || loads.values.empty()) {
    refuse(path, fmt::format("dataset {} has {} dimensions and {} values", dataset, shape.size(),
                             loads.values.size()));
  }
  loads.rows = shape.size() == 2 ? static_cast<int>(shape[0]) : 1;
  loads.columns = static_cast<int>(shape.back());
  for (int r = 0; r < loads.rows; ++r) {
    for (int c = 0; c < loads.columns; ++c) check_load(path, r, c, loads.row(r)[c]);
  }
  return loads;
}
}  // namespace

Matrix<float> read_loads(const std::string& path, const std::string& dataset) {
  constexpr std::string_view kHdf5Magic = "\x89HDF\r\n\x1a\n";
  const std::string text = read_text(path);
  if (text.compare(0, kHdf5Magic.size(), kHdf5Magic) == 0) return loads_of_hdf5(path, dataset);
  const auto first = text.find_first_not_of(" \t\r\n");
  const bool json = first != std::string::npos && (text[first] == '[' || text[first] == '{');
  return json ? loads_of_json(path, text) : loads_of_csv(path, text);
}

Matrix<int> read_phy2log(const std::string& path) {
  nlohmann::json json = parse_json(path, read_text(path));
  if (json.is_object()) {
    if (!json.contains("phy2log")) refuse(path, "it has no phy2log");
    json = nlohmann::json(json["phy2log"]);
  }
  return matrix_of_json<int>(path, json,
                             [](const auto& value, int, int) { return value.template get<int>(); });
}

}  // namespace pipemark
