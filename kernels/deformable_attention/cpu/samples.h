// The bilinear arithmetic of the samples of a few outputs at once, one array per quantity so that the compiler makes vectors of it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace sampling {

struct Level {
  int64_t height, width, start;
};

// One output is one (query, head). A cell outside of the map counts 0 and is replaced by the nearest inside, which its sample reads anyway;
// a sample whose four cells are outside is skipped. What is not a number stays so in every share, and is never skipped.
template <typename A>
struct Samples {
  static constexpr int64_t kOutputs = 16;
  static constexpr int64_t kPad = 16;

  const int64_t points, each, padded;  // samples of an output; and of all outputs, rounded up to whole vectors
  // Of the shapes alone: sizes and first cell of each sample's level, and where its location is among those of an output.
  std::vector<A> width, height;
  std::vector<int32_t> columns, start;
  std::vector<int64_t> source;
  // Of the call: coordinates and weight; shares along each axis, 1 where the cell is inside and 0 elsewhere; what `dot` adds up.
  std::vector<A> x, y, weight;
  std::array<std::vector<A>, 2> along_x, along_y, inside_x, inside_y;
  std::array<std::vector<A>, 4> share, dot;
  std::array<std::vector<int32_t>, 4> cell;
  std::vector<int32_t> counts, kept;
  std::array<int64_t, kOutputs + 1> end;

  Samples(const std::vector<Level>& levels, int64_t points, bool shared)
      : points(points), each(levels.size() * points), padded((kOutputs * each + kPad - 1) / kPad * kPad), width(padded, 1),
        height(padded, 1), columns(padded, 1), start(padded, 0), source(each), x(padded, 0), y(padded, 0), weight(padded, 0),
        counts(padded, 0), kept(padded, 0), end{} {
    for (auto* pair : {&along_x, &along_y, &inside_x, &inside_y}) {
      for (auto& one : *pair) one.assign(padded, 0);
    }
    for (int corner = 0; corner < 4; ++corner) {
      share[corner].assign(padded, 0);
      dot[corner].assign(padded, 0);
      cell[corner].assign(padded, 0);
    }
    for (int64_t place = 0; place < kOutputs * each; ++place) {
      const Level& level = levels[place % each / points];
      width[place] = static_cast<A>(level.width);
      height[place] = static_cast<A>(level.height);
      columns[place] = static_cast<int32_t>(level.width);
      start[place] = static_cast<int32_t>(level.start);
      source[place % each] = 2 * (shared ? place % points : place % each);
    }
  }

  // The samples of one output that count.
  std::pair<const int32_t*, const int32_t*> of(int64_t output) const { return {kept.data() + end[output], kept.data() + end[output + 1]}; }

  // Takes the samples of an output, whose locations and weights begin there.
  void take(int64_t output, const A* locations, const A* weights) {
    A *to_x = x.data() + output * each, *to_y = y.data() + output * each, *to_weight = weight.data() + output * each;
    for (int64_t place = 0; place < each; ++place) {
      to_x[place] = locations[source[place]];
      to_y[place] = locations[source[place] + 1];
      to_weight[place] = weights[place];
    }
  }

  // Cells and shares of what was taken.
  void find(int64_t outputs) {
    const int64_t total = outputs * each;
    int32_t* const cells[4] = {cell[0].data(), cell[1].data(), cell[2].data(), cell[3].data()};
    axis(total, x.data(), width.data(), along_x, inside_x, cells[0], cells[1]);
    axis(total, y.data(), height.data(), along_y, inside_y, cells[2], cells[3]);
    A *s0 = share[0].data(), *s1 = share[1].data(), *s2 = share[2].data(), *s3 = share[3].data();
    const A *left = along_x[0].data(), *right = along_x[1].data(), *above = along_y[0].data(), *below = along_y[1].data();
    const A *at_left = inside_x[0].data(), *at_right = inside_x[1].data(), *at_top = inside_y[0].data(), *at_bottom = inside_y[1].data();
    const A* factor = weight.data();
    const int32_t *per_row = columns.data(), *first = start.data();
    int32_t* count = counts.data();
#pragma omp simd
    for (int64_t place = 0; place < total; ++place) {
      const int32_t column = cells[0][place], next_column = cells[1][place];
      const int32_t row = cells[2][place] * per_row[place] + first[place], next_row = cells[3][place] * per_row[place] + first[place];
      cells[0][place] = row + column;
      cells[1][place] = row + next_column;
      cells[2][place] = next_row + column;
      cells[3][place] = next_row + next_column;
      const A up = above[place] * factor[place], down = below[place] * factor[place];
      s0[place] = up * left[place];
      s1[place] = up * right[place];
      s2[place] = down * left[place];
      s3[place] = down * right[place];
      const A inside = (at_left[place] + at_right[place]) * (at_top[place] + at_bottom[place]);
      // Outside all shares are 0, or not numbers where the location or the weight is none.
      count[place] = (inside != 0) | (s0[place] != 0);
    }
    int64_t next = 0;
    for (int64_t output = 0; output < outputs; ++output) {
      for (int64_t place = output * each; place < (output + 1) * each; ++place) {
        kept[next] = static_cast<int32_t>(place);
        next += count[place];
      }
      end[output + 1] = next;
    }
  }

  // Turns coordinates and weights into their gradients, by the dots.
  void differentiate(int64_t outputs) {
    const int64_t total = outputs * each;
    const A *d0 = dot[0].data(), *d1 = dot[1].data(), *d2 = dot[2].data(), *d3 = dot[3].data();
    const A *left = along_x[0].data(), *right = along_x[1].data(), *above = along_y[0].data(), *below = along_y[1].data();
    const A *at_left = inside_x[0].data(), *at_right = inside_x[1].data(), *at_top = inside_y[0].data(), *at_bottom = inside_y[1].data();
    const A *across = width.data(), *down = height.data();
    A *to_x = x.data(), *to_y = y.data(), *to_weight = weight.data();
#pragma omp simd
    for (int64_t place = 0; place < total; ++place) {
      const A top = left[place] * d0[place] + right[place] * d1[place], bottom = left[place] * d2[place] + right[place] * d3[place];
      const A first = above[place] * d0[place] + below[place] * d2[place], second = above[place] * d1[place] + below[place] * d3[place];
      const A factor = to_weight[place];
      to_x[place] = (second * at_right[place] - first * at_left[place]) * factor * across[place];
      to_y[place] = (bottom * at_bottom[place] - top * at_top[place]) * factor * down[place];
      to_weight[place] = above[place] * top + below[place] * bottom;
    }
  }

  void give_weights(int64_t output, A* to) const { std::copy_n(weight.data() + output * each, each, to); }

  // Levels that share a location add up.
  void give_locations(int64_t output, A* to) const {
    std::fill_n(to, source.back() + 2, A(0));
    for (int64_t place = 0; place < each; ++place) {
      to[source[place]] += x[output * each + place];
      to[source[place] + 1] += y[output * each + place];
    }
  }

 private:
  void axis(
      int64_t total, const A* coordinate, const A* size, std::array<std::vector<A>, 2>& along, std::array<std::vector<A>, 2>& inside,
      int32_t* low, int32_t* high) const {
    A *near = along[0].data(), *far = along[1].data(), *near_inside = inside[0].data(), *far_inside = inside[1].data();
#pragma omp simd
    for (int64_t place = 0; place < total; ++place) {
      const A extent = size[place], last = extent - 1;
      A position = coordinate[place] * extent - A(0.5);
      // Bounded so that it fits an integer; everything beyond is outside alike.
      position = position < A(-2) ? A(-2) : position;
      position = position > extent + 1 ? extent + 1 : position;
      const A floor = std::floor(position), fraction = position - floor, nothing = position * 0;
      const bool low_inside = (floor >= 0) & (floor <= last), high_inside = (floor >= -1) & (floor < last);
      near[place] = low_inside ? 1 - fraction : nothing;
      far[place] = high_inside ? fraction : nothing;
      near_inside[place] = low_inside ? A(1) : A(0);
      far_inside[place] = high_inside ? A(1) : A(0);
      // What is not a number is not above 0.
      const A begin = floor > 0 ? floor : A(0), end = floor + 1 > 0 ? floor + 1 : A(0);
      low[place] = static_cast<int32_t>(begin < last ? begin : last);
      high[place] = static_cast<int32_t>(end < last ? end : last);
    }
  }
};

}  // namespace sampling
