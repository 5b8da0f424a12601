// CommonJS door to the package: the very module that `import` gives, so there is one KvCache class per process however it was loaded.
module.exports = require('./index.js')
