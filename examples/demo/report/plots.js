// Draws the report's plots in the browser. Inlined into the page, with uPlot before it and the data as JSON.
'use strict'
;(() => {
  const data = JSON.parse(document.getElementById('data').textContent)
  const { withCache, without } = data
  const dark = matchMedia('(prefers-color-scheme: dark)')
  const sync = uPlot.sync('time')
  /** The plots now on the page. */
  let plots = []

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
  const SOURCES = [
    ['HIT', 'hit'],
    ['STALE', 'stale'],
    ['MISS', 'miss'],
    ['STALE-IF-ERROR', 'stale-if-error']
  ]

  const milliseconds = value => {
    if (value === null || value === undefined) return '–'
    if (value >= 1000) return `${(value / 1000).toFixed(2)} s`
    return `${value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2)} ms`
  }
  const number = value => (value === null || value === undefined ? '–' : Math.round(value).toLocaleString('en'))
  const rate = value => (value === null || value === undefined ? '–' : `${number(value)}/s`)

  /** Shades what the origin went through, and says so at the top. */
  function phasePlugin(phases) {
    const edges = (u, phase) => {
      const from = Math.max(u.valToPos(phase.start, 'x', true), u.bbox.left)
      const to = Math.min(u.valToPos(phase.end, 'x', true), u.bbox.left + u.bbox.width)
      return [from, to - from]
    }
    return {
      hooks: {
        drawClear: u => {
          for (const phase of phases) {
            if (phase.name === 'calm') continue
            const [left, width] = edges(u, phase)
            u.ctx.fillStyle = colour(phase.name)
            u.ctx.fillRect(left, u.bbox.top, width, u.bbox.height)
          }
        },
        draw: u => {
          const { ctx } = u
          ctx.save()
          ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`
          ctx.textAlign = 'center'
          ctx.textBaseline = 'bottom'
          ctx.fillStyle = colour('muted')
          ctx.strokeStyle = colour('muted')
          ctx.lineWidth = devicePixelRatio / 2
          ctx.setLineDash([])
          for (const phase of phases) {
            const [left, width] = edges(u, phase)
            if (phase.start > 0) {
              ctx.beginPath()
              ctx.moveTo(left, u.bbox.top)
              ctx.lineTo(left, u.bbox.top + u.bbox.height)
              ctx.stroke()
            }
            // A label wider than its phase is left out.
            if (ctx.measureText(phase.label).width > width) continue
            ctx.fillText(phase.label, left + width / 2, u.bbox.top - 4 * devicePixelRatio)
          }
          ctx.restore()
        }
      }
    }
  }

  /** A dashed line across the plot. */
  function linePlugin(value, name) {
    return {
      hooks: {
        draw: u => {
          const y = Math.round(u.valToPos(value, 'y', true))
          if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return
          const { ctx } = u
          ctx.save()
          ctx.strokeStyle = ctx.fillStyle = colour('muted')
          ctx.lineWidth = devicePixelRatio
          ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio])
          ctx.beginPath()
          ctx.moveTo(u.bbox.left, y)
          ctx.lineTo(u.bbox.left + u.bbox.width, y)
          ctx.stroke()
          ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`
          ctx.textAlign = 'right'
          ctx.textBaseline = 'bottom'
          ctx.fillText(name, u.bbox.left + u.bbox.width - 4 * devicePixelRatio, y - 3 * devicePixelRatio)
          ctx.restore()
        }
      }
    }
  }

  const axis = more => ({
    stroke: colour('muted'),
    grid: { stroke: colour('grid'), width: 1 },
    ticks: { stroke: colour('line'), width: 1 },
    font: '12px system-ui, sans-serif',
    labelFont: '12px system-ui, sans-serif',
    labelSize: 20,
    ...more
  })

  function line(label, name, value, more) {
    return {
      label,
      stroke: colour(name),
      width: 2,
      value: (_, v) => value(v),
      points: { show: false },
      spanGaps: false,
      ...more
    }
  }

  /**
   * @param id of the element
   * @param phases to shade
   * @param y { label, scale, values, splits, filter }
   * @param series lines
   * @param columns their values, the time first
   */
  function plot(id, phases, y, series, columns, { height = 240, bands, plugins = [] } = {}) {
    const element = document.getElementById(id)
    element.textContent = ''
    const options = {
      width: element.clientWidth,
      height,
      padding: [22, 14, 0, 0],
      cursor: { sync: { key: sync.key }, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: false, range: [0, data.seconds] }, y: y.scale },
      axes: [
        axis({ size: 32, values: (_, ticks) => ticks.map(tick => `${tick} s`) }),
        axis({ label: y.label, size: 70, values: y.values, splits: y.splits, filter: y.filter })
      ],
      series: [
        { label: 'at', value: (_, v) => (v === null || v === undefined ? '–' : `${v.toFixed(2)} s`) },
        ...series
      ],
      bands,
      legend: { markers: { dash: (u, n) => (u.series[n].dash ? 'dashed' : 'solid') } },
      plugins: [phasePlugin(phases), ...plugins]
    }
    plots.push(new uPlot(options, columns, element))
  }

  /** Logarithmic, from the quickest to the slowest of what is drawn. */
  function latencyAxis(columns) {
    const values = columns.flat().filter(value => value !== null)
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
    const low = steps.findLast(step => step <= Math.min(...values)) ?? steps[0]
    const high = steps.find(step => step >= Math.max(...values)) ?? steps[steps.length - 1]
    const splits = steps.filter(step => step >= low && step <= high)
    return {
      label: 'milliseconds',
      scale: { distr: 3, range: [low, high] },
      splits: () => splits,
      filter: () => splits,
      values: () => splits.map(value => value.toLocaleString('en'))
    }
  }
  const rateAxis = (label, max) => ({
    label,
    scale: { range: [0, max] },
    values: (_, splits) => splits.map(number)
  })

  function latency() {
    const columns = [withCache.p50, withCache.p99, without.p50, without.p99]
    plot(
      'latency',
      withCache.phases,
      latencyAxis(columns),
      [
        line('with kvcache, p50', 'accent', milliseconds),
        line('with kvcache, p99', 'accent', milliseconds, { dash: [6, 3] }),
        line('without, p50', 'error', milliseconds),
        line('without, p99', 'error', milliseconds, { dash: [6, 3] })
      ],
      [withCache.time, ...columns],
      { height: 280 }
    )
  }

  function latencyBySource() {
    const columns = SOURCES.map(([name]) => withCache.p99BySource[name])
    plot(
      'latency-by-source',
      withCache.phases,
      latencyAxis([...columns, [data.promiseMs]]),
      // A source that answers only now and then shows as dots.
      SOURCES.map(([name, key]) =>
        line(`${name} p99`, key, milliseconds, { points: { show: true, size: 4, fill: colour(key) } })
      ),
      [withCache.time, ...columns],
      { height: 260, plugins: [linePlugin(data.promiseMs, `${data.promiseMs} ms`)] }
    )
  }

  /** Rates on top of each other. The last column of the stack is drawn first. */
  function stacked(id, run, sources, max) {
    const rates = sources.map(([name]) => run.rateBySource[name])
    const sums = rates.map((_, n) =>
      run.time.map((_, at) => rates.slice(0, n + 1).reduce((sum, column) => sum + column[at], 0))
    )
    const order = sources.map((_, n) => sources.length - 1 - n)
    const series = order.map(n => {
      const [name, key, label] = sources[n]
      const shown = (_, v, si, at) => (at === null || at === undefined ? '–' : rate(rates[n][at]))
      return line(label ?? name, key, rate, { fill: colour(key), width: 0, value: shown })
    })
    const bands = order.slice(1).map((_, n) => ({ series: [n + 1, n + 2] }))
    plot(id, run.phases, rateAxis('answers a second', max), series, [run.time, ...order.map(n => sums[n])], { bands })
  }

  function answers() {
    const total = run =>
      run.time.map((_, at) => Object.values(run.rateBySource).reduce((sum, column) => sum + column[at], 0))
    const max = Math.max(...total(withCache), ...total(without)) * 1.02
    stacked('answers-with', withCache, [...SOURCES, ['ERROR', 'error', 'no page']], max)
    stacked(
      'answers-without',
      without,
      [
        ['BYPASS', 'bypass', 'page from the origin'],
        ['ERROR', 'error', 'no page']
      ],
      max
    )
  }

  function originLoad() {
    const max = Math.max(...withCache.toOrigin, ...without.toOrigin, data.rateLimit) * 1.08
    plot(
      'origin-load',
      withCache.phases,
      rateAxis('requests a second', max),
      [
        line('with kvcache', 'accent', rate, { fill: `color-mix(in srgb, ${colour('accent')} 18%, transparent)` }),
        line('without', 'error', rate)
      ],
      [withCache.time, withCache.toOrigin, without.toOrigin],
      { plugins: [linePlugin(data.rateLimit, 'rate limit')] }
    )
  }

  function breaker() {
    const states = ['closed', 'half-open', 'open']
    const changes = [{ at: 0, state: 'closed' }, ...withCache.breaker.filter(({ at }) => at > 0 && at < data.seconds)]
    const end = { ...changes[changes.length - 1], at: data.seconds }
    const points = [...changes, end]
    plot(
      'breaker',
      withCache.phases,
      {
        // No words, but the room they take elsewhere: the plots' times stand one above the other.
        label: ' ',
        scale: { range: [-0.25, 2.25] },
        splits: () => [0, 1, 2],
        filter: (_, splits) => splits,
        values: (_, splits) => splits.map(value => states[value])
      },
      [
        line('breaker', 'error', value => states[value] ?? '–', {
          paths: uPlot.paths.stepped({ align: 1 }),
          fill: `color-mix(in srgb, ${colour('error')} 18%, transparent)`
        })
      ],
      [points.map(({ at }) => at), points.map(({ state }) => states.indexOf(state))],
      { height: 170 }
    )
  }

  function queue() {
    const gauges = withCache.gauges
    const max = Math.max(10, ...gauges.map(({ queued, running }) => Math.max(queued, running))) * 1.05
    plot(
      'queue',
      withCache.phases,
      rateAxis('refreshes', max),
      [line('queued', 'stale', number), line('running', 'accent', number)],
      [gauges.map(({ at }) => at), gauges.map(({ queued }) => queued), gauges.map(({ running }) => running)],
      { height: 200 }
    )
  }

  function draw() {
    for (const old of plots) old.destroy()
    plots = []
    latency()
    latencyBySource()
    answers()
    originLoad()
    breaker()
    queue()
  }

  draw()
  dark.addEventListener('change', draw)
  let width = innerWidth
  let resizing
  addEventListener('resize', () => {
    if (innerWidth === width) return
    width = innerWidth
    clearTimeout(resizing)
    resizing = setTimeout(draw, 100)
  })
  document.documentElement.dataset.plots = String(plots.length)
})()
