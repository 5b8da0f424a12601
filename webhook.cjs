// CommonJS door to kvcache/webhook: the very module that `import` gives.
module.exports = require('./webhook.js')
