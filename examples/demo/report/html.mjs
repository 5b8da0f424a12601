// @ts-check
/**
 * Pieces of the report's page. Whatever goes in as text comes out escaped.
 */

/** @param {string} text */
export function escape(text) {
  return text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}

/**
 * JSON that no parser of HTML can take for the end of its script element.
 * @param {unknown} value
 */
export function scriptJson(value) {
  return JSON.stringify(value).replaceAll('<', '\\u003c')
}

/**
 * @param {string} caption
 * @param {string[]} head
 * @param {string[][]} rows
 * @param {number} [textColumns] columns of words, from the left
 */
export function table(caption, head, rows, textColumns = 1) {
  const kind = (/** @type {number} */ n) => (n < textColumns ? ' class="text"' : '')
  const cell = (/** @type {string} */ text, /** @type {number} */ n) =>
    n === 0 ? `<th scope="row">${escape(text)}</th>` : `<td${kind(n)}>${escape(text)}</td>`
  return `<div class="scroll"><table${head.length <= 3 ? ' class="narrow"' : ''}>
<caption>${escape(caption)}</caption>
<thead><tr>${head.map((title, n) => `<th scope="col"${kind(n)}>${escape(title)}</th>`).join('')}</tr></thead>
<tbody>
${rows.map(row => `<tr>${row.map(cell).join('')}</tr>`).join('\n')}
</tbody></table></div>`
}

/**
 * @param {string} label
 * @param {string} value
 * @param {string} note
 */
export function tile(label, value, note) {
  const parts = [`<dt>${escape(label)}</dt>`, `<dd>${escape(value)}</dd>`, `<dd class="note">${escape(note)}</dd>`]
  return `<div class="tile">${parts.join('')}</div>`
}

/**
 * @param {string} id of the plot
 * @param {string} title
 * @param {string} text what there is to see
 */
export function figure(id, title, text) {
  return `<figure><figcaption><h3>${escape(title)}</h3><p>${escape(text)}</p></figcaption>
<div class="plot" id="${id}"></div></figure>`
}

/** @param {string[]} items */
export function list(items) {
  return `<ul>\n${items.map(item => `<li>${escape(item)}</li>`).join('\n')}\n</ul>`
}
