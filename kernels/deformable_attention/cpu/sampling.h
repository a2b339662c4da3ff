// The arithmetic of one sample and of one row of channels; no threads, no memory of its own.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace sampling {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

// A is the type of the arithmetic (float or double), T the type in memory.
template <typename A>
struct Simd {
  typedef A Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t lanes = kVectorBytes / sizeof(A);
};

template <typename A, typename T>
inline typename Simd<A>::Vector load(const T* from) {
  typename Simd<A>::Vector vector;
  if constexpr (std::is_same_v<A, T>) {
    std::memcpy(&vector, from, sizeof vector);
    return vector;
  }
#if defined(__F16C__)
  if constexpr (std::is_same_v<T, c10::Half> && kVectorBytes == 32) {
    const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    std::memcpy(&vector, &wide, sizeof vector);
    return vector;
  }
#endif
  A values[Simd<A>::lanes];
  for (int64_t lane = 0; lane < Simd<A>::lanes; ++lane) values[lane] = static_cast<A>(from[lane]);
  std::memcpy(&vector, values, sizeof vector);
  return vector;
}

// out[0..count) = sum over corners of share * row, where a row begins at base + offset; N vectors of channels stay in registers.
template <typename A, typename T, int N>
inline void gather_block(const T* base, const int64_t* offset, const A* share, int64_t corners, A* out) {
  typename Simd<A>::Vector sum[N] = {};
  for (int64_t corner = 0; corner < corners; ++corner) {
    const T* row = base + offset[corner];
    for (int part = 0; part < N; ++part) sum[part] += share[corner] * load<A>(row + part * Simd<A>::lanes);
  }
  std::memcpy(out, sum, sizeof sum);
}

template <typename A, typename T>
inline void gather(const T* base, const int64_t* offset, const A* share, int64_t corners, int64_t channels, A* out) {
  constexpr int64_t lanes = Simd<A>::lanes;
  int64_t done = 0;
  for (; done + 8 * lanes <= channels; done += 8 * lanes) gather_block<A, T, 8>(base + done, offset, share, corners, out + done);
  for (; done + 4 * lanes <= channels; done += 4 * lanes) gather_block<A, T, 4>(base + done, offset, share, corners, out + done);
  for (; done + lanes <= channels; done += lanes) gather_block<A, T, 1>(base + done, offset, share, corners, out + done);
  for (; done < channels; ++done) {
    A sum = 0;
    for (int64_t corner = 0; corner < corners; ++corner) sum += share[corner] * static_cast<A>(base[offset[corner] + done]);
    out[done] = sum;
  }
}

// For the four rows of a sample: dots[k] = row k * gradient, and sum row k += share[k] * gradient. Where `inside` is false nothing is touched.
template <typename A, bool kDots, bool kSums>
inline void scatter(
    const A* rows, A* sums, const int64_t* row, const bool* inside, const A* share, const A* gradient, int64_t channels, A* dots) {
  constexpr int64_t lanes = Simd<A>::lanes;
  typename Simd<A>::Vector total[4] = {};
  int64_t done = 0;
  if (inside[0] && inside[1] && inside[2] && inside[3]) {
    for (; done + lanes <= channels; done += lanes) {
      const typename Simd<A>::Vector part = load<A>(gradient + done);
      for (int corner = 0; corner < 4; ++corner) {
        if constexpr (kDots) total[corner] += load<A>(rows + row[corner] + done) * part;
        if constexpr (kSums) {
          const typename Simd<A>::Vector sum = load<A>(sums + row[corner] + done) + share[corner] * part;
          std::memcpy(sums + row[corner] + done, &sum, sizeof sum);
        }
      }
    }
  } else {
    for (; done + lanes <= channels; done += lanes) {
      const typename Simd<A>::Vector part = load<A>(gradient + done);
      for (int corner = 0; corner < 4; ++corner) {
        if (!inside[corner]) continue;
        if constexpr (kDots) total[corner] += load<A>(rows + row[corner] + done) * part;
        if constexpr (kSums) {
          const typename Simd<A>::Vector sum = load<A>(sums + row[corner] + done) + share[corner] * part;
          std::memcpy(sums + row[corner] + done, &sum, sizeof sum);
        }
      }
    }
  }
  for (int corner = 0; corner < 4; ++corner) {
    A parts[lanes];
    std::memcpy(parts, &total[corner], sizeof parts);
    for (int64_t width = lanes / 2; width > 0; width /= 2) {
      for (int64_t lane = 0; lane < width; ++lane) parts[lane] += parts[lane + width];
    }
    dots[corner] = parts[0];
    if (!inside[corner]) continue;
    for (int64_t channel = done; channel < channels; ++channel) {
      if constexpr (kDots) dots[corner] += rows[row[corner] + channel] * gradient[channel];
      if constexpr (kSums) sums[row[corner] + channel] += share[corner] * gradient[channel];
    }
  }
}

// The bilinear arithmetic of many samples at once, one array per quantity so that the compiler makes vectors of it.
// A cell outside of the map counts 0 and is replaced by the level's first. What is not a number stays so in every share.
template <typename A>
struct Samples {
  static constexpr int64_t kPad = 16;

  // What the caller fills: location, weight, and the level's width, height and first cell. The rest stays as `resize` left it.
  std::vector<A> x, y, weight, width, height;
  std::vector<int32_t> columns, start;
  // What `find` computes: shares along each axis, whether the cells are inside, and the four cells row-major.
  std::vector<A> left, right, above, below;
  std::vector<int32_t> left_inside, right_inside, above_inside, below_inside, cell[4];
  std::vector<A> share[4];
  int64_t padded;

  explicit Samples(int64_t count) : padded((count + kPad - 1) / kPad * kPad) {
    for (auto* each : {&x, &y, &weight, &left, &right, &above, &below, &share[0], &share[1], &share[2], &share[3]}) each->assign(padded, 0);
    for (auto* each : {&width, &height}) each->assign(padded, 1);
    for (auto* each : {&start, &left_inside, &right_inside, &above_inside, &below_inside}) each->assign(padded, 0);
    for (auto& each : cell) each.assign(padded, 0);
    columns.assign(padded, 1);
  }

  void set_level(int64_t place, int64_t rows, int64_t level_columns, int64_t first) {
    width[place] = static_cast<A>(level_columns);
    height[place] = static_cast<A>(rows);
    columns[place] = static_cast<int32_t>(level_columns);
    start[place] = static_cast<int32_t>(first);
  }

  void find() {
    axis(x.data(), width.data(), left.data(), right.data(), left_inside.data(), right_inside.data(), cell[0].data(), cell[1].data());
    axis(y.data(), height.data(), above.data(), below.data(), above_inside.data(), below_inside.data(), cell[2].data(), cell[3].data());
    int32_t *c0 = cell[0].data(), *c1 = cell[1].data(), *c2 = cell[2].data(), *c3 = cell[3].data();
    A *s0 = share[0].data(), *s1 = share[1].data(), *s2 = share[2].data(), *s3 = share[3].data();
    const A *l = left.data(), *r = right.data(), *a = above.data(), *b = below.data(), *w = weight.data();
    const int32_t *per_row = columns.data(), *first = start.data();
#pragma omp simd
    for (int64_t place = 0; place < padded; ++place) {
      const int32_t column = c0[place], next_column = c1[place];
      const int32_t row = c2[place] * per_row[place] + first[place], next_row = c3[place] * per_row[place] + first[place];
      c0[place] = row + column;
      c1[place] = row + next_column;
      c2[place] = next_row + column;
      c3[place] = next_row + next_column;
      const A up = a[place] * w[place], down = b[place] * w[place];
      s0[place] = up * l[place];
      s1[place] = up * r[place];
      s2[place] = down * l[place];
      s3[place] = down * r[place];
    }
  }

  void axis(
      const A* coordinate, const A* size, A* near, A* far, int32_t* near_inside, int32_t* far_inside, int32_t* low, int32_t* high) const {
#pragma omp simd
    for (int64_t place = 0; place < padded; ++place) {
      const A extent = size[place];
      A position = coordinate[place] * extent - A(0.5);
      // Bounded so that it fits an integer; everything beyond is outside alike.
      position = position < A(-2) ? A(-2) : position;
      position = position > extent + 1 ? extent + 1 : position;
      const A floor = std::floor(position), fraction = position - floor, nothing = position * 0;
      const bool low_inside = (floor >= 0) & (floor < extent), high_inside = (floor >= -1) & (floor < extent - 1);
      near[place] = low_inside ? 1 - fraction : nothing;
      far[place] = high_inside ? fraction : nothing;
      near_inside[place] = low_inside;
      far_inside[place] = high_inside;
      low[place] = static_cast<int32_t>(low_inside ? floor : A(0));
      high[place] = static_cast<int32_t>(high_inside ? floor + 1 : A(0));
    }
  }
};

}  // namespace sampling
