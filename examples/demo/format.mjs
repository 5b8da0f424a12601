// @ts-check
/**
 * Figures as people read them, the same on the terminal and in the report.
 */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

/** @param {number} value */
export function count(value) {
  return whole.format(value)
}

/** Three significant digits, with the unit. @param {number} value milliseconds */
export function ms(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`
  if (value >= 100) return `${value.toFixed(0)} ms`
  return `${value.toFixed(value >= 10 ? 1 : 2)} ms`
}

/** @param {number} share */
export function percent(share) {
  const value = share * 100
  // 99.97 % is not 100 %, and 0.02 % is not nothing.
  const digits = value !== 0 && value !== 100 && (value < 0.1 || value > 99.9) ? 2 : 1
  return `${value.toFixed(digits)} %`
}

/** Mebibytes. @param {number} value bytes */
export function mebibytes(value) {
  return `${(value / 2 ** 20).toFixed(1)} MiB`
}
