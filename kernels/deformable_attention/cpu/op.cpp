// Deformable sampling on the processor, behind a C interface: no Python header is needed, and torch's only for its threads.
//
// One task owns one (image, head): its rows are copied into one contiguous block that stays in the cache, and in the backward pass it owns
// the gradient of those rows. Every sum has one order, whatever the number of threads; no atomic touches a gradient.
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "sampling.h"

namespace {

using namespace sampling;

enum Status : int { kDone = 0, kImageOutOfRange = 1, kOutOfMemory = 2, kUnknownType = 3, kFailed = 4 };

struct Level {
  int64_t height, width, start;
};

struct Problem {
  int64_t images, cells, heads, channels, levels, location_levels, queries, points;
  const int64_t* shapes;
  const int64_t* image;
  std::vector<Level> level;
  std::vector<int64_t> order, begin;  // queries by image, in their own order; where each image's begin

  // False when a query names an image that is not there.
  bool prepare() {
    int64_t start = 0;
    for (int64_t number = 0; number < levels; ++number) {
      level.push_back({shapes[2 * number], shapes[2 * number + 1], start});
      start += shapes[2 * number] * shapes[2 * number + 1];
    }
    begin.assign(images + 1, 0);
    for (int64_t query = 0; query < queries; ++query) {
      if (image[query] < 0 || image[query] >= images) return false;
      ++begin[image[query] + 1];
    }
    for (int64_t number = 0; number < images; ++number) begin[number + 1] += begin[number];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    order.resize(queries);
    for (int64_t query = 0; query < queries; ++query) order[next[image[query]]++] = query;
    return true;
  }

  int64_t row_of(int64_t number, int64_t cell, int64_t head) const { return ((number * cells + cell) * heads + head) * channels; }
  int64_t location_of(int64_t query, int64_t head, int64_t of_level) const {
    return ((query * heads + head) * location_levels + (location_levels == 1 ? 0 : of_level)) * points * 2;
  }
  int64_t weight_of(int64_t query, int64_t head, int64_t of_level) const {
    return ((query * heads + head) * levels + of_level) * points;
  }
};

// Tasks are handed out one by one, so that a slow one holds up no other; what a task computes does not depend on who runs it.
template <typename Run>
void each_task(int64_t tasks, const Run& run) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) { run(next); });
}

template <typename From, typename To>
void copy_rows(const From* from, int64_t from_stride, int64_t rows, int64_t channels, To* to, int64_t to_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      to[row * to_stride + channel] = static_cast<To>(from[row * from_stride + channel]);
    }
  }
}

template <typename A>
void split(const A* pairs, int64_t count, A* x, A* y) {
  for (int64_t place = 0; place < count; ++place) {
    x[place] = pairs[2 * place];
    y[place] = pairs[2 * place + 1];
  }
}

// The rows that one (query, head) sums: where they begin, and what they count. A corner that counts nothing is not among them.
template <typename A>
struct Corners {
  const Problem& problem;
  Samples<A> samples;
  std::vector<int64_t> offset;
  std::vector<A> share;
  int64_t count = 0;

  explicit Corners(const Problem& problem)
      : problem(problem), samples(problem.levels * problem.points), offset(4 * samples.padded), share(4 * samples.padded) {
    for (int64_t place = 0; place < problem.levels * problem.points; ++place) {
      const Level& level = problem.level[place / problem.points];
      samples.set_level(place, level.height, level.width, level.start);
    }
  }

  void find(int64_t query, int64_t head, const A* location, const A* weight, int64_t stride) {
    const int64_t total = problem.levels * problem.points;
    for (int64_t number = 0; number < problem.levels; ++number) {
      const A* place = location + problem.location_of(query, head, number);
      split(place, problem.points, samples.x.data() + number * problem.points, samples.y.data() + number * problem.points);
    }
    std::copy_n(weight + problem.weight_of(query, head, 0), total, samples.weight.data());
    samples.find();
    int64_t kept = 0;
    int64_t* to_offset = offset.data();
    A* to_share = share.data();
    for (int corner = 0; corner < 4; ++corner) {
      const int32_t* cell = samples.cell[corner].data();
      const A* part = samples.share[corner].data();
      for (int64_t place = 0; place < total; ++place) {
        const A counts = part[place];
        to_offset[kept] = cell[place] * stride;
        to_share[kept] = counts;
        kept += counts != 0;
      }
    }
    count = kept;
  }
};

template <typename A, typename T>
void forward(const Problem& problem, const T* value, const A* location, const A* weight, T* out) {
  const int64_t channels = problem.channels, heads = problem.heads, chunk = 16;
  const int64_t samples = problem.levels * problem.points;
  // Copying an image's rows pays when they are read more than once on the average, and when there are tasks enough.
  const bool packed = problem.queries * samples * 4 > 2 * problem.images * problem.cells && problem.images * heads >= 2 * at::get_num_threads();
  const int64_t tasks = packed ? problem.images * heads : (problem.queries + chunk - 1) / chunk;
  each_task(tasks, [&](std::atomic<int64_t>& next) {
    Corners<A> corners(problem);
    std::vector<A> sum(channels), rows(packed ? problem.cells * channels : 0);
    const auto write = [&](int64_t query, int64_t head) {
      T* to = out + (query * heads + head) * channels;
      for (int64_t channel = 0; channel < channels; ++channel) to[channel] = static_cast<T>(sum[channel]);
    };
    for (int64_t task = next++; task < tasks; task = next++) {
      if (packed) {
        const int64_t number = task / heads, head = task % heads, first = problem.begin[number], last = problem.begin[number + 1];
        if (first == last) continue;
        copy_rows(value + problem.row_of(number, 0, head), heads * channels, problem.cells, channels, rows.data(), channels);
        for (int64_t place = first; place < last; ++place) {
          const int64_t query = problem.order[place];
          corners.find(query, head, location, weight, channels);
          gather(rows.data(), corners.offset.data(), corners.share.data(), corners.count, channels, sum.data());
          write(query, head);
        }
        continue;
      }
      for (int64_t query = task * chunk; query < std::min((task + 1) * chunk, problem.queries); ++query) {
        for (int64_t head = 0; head < heads; ++head) {
          corners.find(query, head, location, weight, heads * channels);
          const T* base = value + problem.row_of(problem.image[query], 0, head);
          gather(base, corners.offset.data(), corners.share.data(), corners.count, channels, sum.data());
          write(query, head);
        }
      }
    }
  });
}

// The gradients asked for; one that is null is not computed.
template <typename A, typename T>
struct Gradients {
  T* value;
  A* location;
  A* weight;
};

// What one task needs: the rows of one level and their gradients, both contiguous.
template <typename A, typename T>
struct LevelGradient {
  static constexpr int64_t kQueries = 16;

  const Problem& problem;
  const A* location;
  const A* weight;
  const Gradients<A, T>& to;
  const bool dots, value;
  Samples<A> samples;
  std::vector<A> rows, sums;

  LevelGradient(const Problem& problem, const A* location, const A* weight, const Gradients<A, T>& to)
      : problem(problem), location(location), weight(weight), to(to), dots(to.location || to.weight), value(to.value),
        samples(kQueries * problem.points) {
    int64_t largest = 0;
    for (const Level& level : problem.level) largest = std::max(largest, level.height * level.width);
    if (dots) rows.resize(largest * problem.channels);
    if (value) sums.resize(largest * problem.channels);
  }

  void set_level(const Level& level) {
    for (int64_t place = 0; place < samples.padded; ++place) samples.set_level(place, level.height, level.width, 0);
  }

  // The samples of a few queries, which `add` then takes one query after the other.
  void find(const int64_t* queries, int64_t count, int64_t head, int64_t number) {
    for (int64_t each = 0; each < count; ++each) {
      const A* place = location + problem.location_of(queries[each], head, number);
      const A* factor = weight + problem.weight_of(queries[each], head, number);
      split(place, problem.points, samples.x.data() + each * problem.points, samples.y.data() + each * problem.points);
      std::copy_n(factor, problem.points, samples.weight.data() + each * problem.points);
    }
    samples.find();
  }

  // Adds what the samples of one (query, head) on this level give; `gradient` is that of its output.
  void add(int64_t each, int64_t query, int64_t head, int64_t number, const A* gradient) {
    const int64_t channels = problem.channels;
    A* to_weight = to.weight ? to.weight + problem.weight_of(query, head, number) : nullptr;
    A* to_location = to.location ? to.location + problem.location_of(query, head, number) : nullptr;
    const bool begins = problem.location_levels > 1 || number == 0;
    for (int64_t point = 0; point < problem.points; ++point) {
      const int64_t place = each * problem.points + point;
      const A left = samples.left[place], right = samples.right[place], above = samples.above[place], below = samples.below[place];
      const bool at_left = samples.left_inside[place], at_right = samples.right_inside[place];
      const bool at_top = samples.above_inside[place], at_bottom = samples.below_inside[place];
      bool inside[4] = {at_top && at_left, at_top && at_right, at_bottom && at_left, at_bottom && at_right};
      int64_t row[4];
      A share[4], dot[4];
      for (int corner = 0; corner < 4; ++corner) {
        row[corner] = samples.cell[corner][place] * channels;
        share[corner] = samples.share[corner][place];
        inside[corner] |= std::isnan(share[corner]);
      }
      if (dots && value) {
        scatter<A, true, true>(rows.data(), sums.data(), row, inside, share, gradient, channels, dot);
      } else if (dots) {
        scatter<A, true, false>(rows.data(), nullptr, row, inside, share, gradient, channels, dot);
      } else {
        scatter<A, false, true>(nullptr, sums.data(), row, inside, share, gradient, channels, dot);
      }
      // The dot of a cell outside is 0, so that only slopes towards cells inside count.
      if (to_weight) to_weight[point] = above * (left * dot[0] + right * dot[1]) + below * (left * dot[2] + right * dot[3]);
      if (to_location) {
        const A factor = samples.weight[place];
        const A x = (above * (dot[1] - dot[0]) + below * (dot[3] - dot[2])) * factor * samples.width[place];
        const A y = (left * (dot[2] - dot[0]) + right * (dot[3] - dot[1])) * factor * samples.height[place];
        to_location[2 * point] = begins ? x : to_location[2 * point] + x;
        to_location[2 * point + 1] = begins ? y : to_location[2 * point + 1] + y;
      }
    }
  }
};

template <typename A, typename T>
void backward(const Problem& problem, const T* value, const A* location, const A* weight, const T* out, const Gradients<A, T>& to) {
  const int64_t channels = problem.channels, heads = problem.heads, stride = heads * channels, tasks = problem.images * heads;
  each_task(tasks, [&](std::atomic<int64_t>& next) {
    LevelGradient<A, T> own(problem, location, weight, to);
    std::vector<A> wide(channels);
    for (int64_t task = next++; task < tasks; task = next++) {
      const int64_t image = task / heads, head = task % heads, first = problem.begin[image], last = problem.begin[image + 1];
      // Level after level, so that the rows of one and their gradients are all that the cache must hold.
      for (int64_t number = 0; number < problem.levels; ++number) {
        const int64_t cells = problem.level[number].height * problem.level[number].width;
        const int64_t begin = problem.row_of(image, problem.level[number].start, head);
        if (own.dots && first < last) copy_rows(value + begin, stride, cells, channels, own.rows.data(), channels);
        if (own.value) std::fill_n(own.sums.begin(), cells * channels, A(0));
        own.set_level(problem.level[number]);
        for (int64_t place = first; place < last; place += own.kQueries) {
          const int64_t count = std::min(own.kQueries, last - place);
          own.find(problem.order.data() + place, count, head, number);
          for (int64_t each = 0; each < count; ++each) {
            const int64_t query = problem.order[place + each];
            const T* given = out + (query * heads + head) * channels;
            if constexpr (std::is_same_v<A, T>) {
              own.add(each, query, head, number, given);
            } else {
              copy_rows(given, channels, 1, channels, wide.data(), channels);
              own.add(each, query, head, number, wide.data());
            }
          }
        }
        if (to.value) copy_rows(own.sums.data(), channels, cells, channels, to.value + begin, stride);
      }
    }
  });
}

template <typename Run>
int guarded(Problem& problem, const Run& run) {
  try {
    if (!problem.prepare()) return kImageOutOfRange;
    run();
    return kDone;
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  } catch (...) {
    return kFailed;
  }
}

template <typename Call>
int by_type(int type, const Call& call) {
  switch (type) {
    case 0: return call(float{}, float{});
    case 1: return call(double{}, double{});
    case 2: return call(float{}, c10::Half{});
    case 3: return call(float{}, c10::BFloat16{});
    default: return kUnknownType;
  }
}

Problem problem_of(const int64_t* sizes, const int64_t* shapes, const int64_t* image) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], shapes, image, {}, {}, {}};
}

}  // namespace

// type: 0 float, 1 double, 2 half, 3 bfloat16, the type of value and out; location and weight are double beside double, else float.
// sizes: images, cells, heads, channels, levels, levels of location (1 where shared), queries, points. All tensors are contiguous.
extern "C" int mmfs_forward(
    int type, const int64_t* sizes, const int64_t* shapes, const void* value, const void* location, const void* weight,
    const int64_t* image, void* out) {
  Problem problem = problem_of(sizes, shapes, image);
  return by_type(type, [&](auto arithmetic, auto memory) {
    using A = decltype(arithmetic);
    using T = decltype(memory);
    return guarded(problem, [&] {
      forward<A, T>(
          problem, static_cast<const T*>(value), static_cast<const A*>(location), static_cast<const A*>(weight), static_cast<T*>(out));
    });
  });
}

// gradient is that of out; a gradient that is not wanted is null.
extern "C" int mmfs_backward(
    int type, const int64_t* sizes, const int64_t* shapes, const void* value, const void* location, const void* weight,
    const int64_t* image, const void* gradient, void* to_value, void* to_location, void* to_weight) {
  Problem problem = problem_of(sizes, shapes, image);
  return by_type(type, [&](auto arithmetic, auto memory) {
    using A = decltype(arithmetic);
    using T = decltype(memory);
    return guarded(problem, [&] {
      backward<A, T>(
          problem, static_cast<const T*>(value), static_cast<const A*>(location), static_cast<const A*>(weight),
          static_cast<const T*>(gradient),
          {static_cast<T*>(to_value), static_cast<A*>(to_location), static_cast<A*>(to_weight)});
    });
  });
}
