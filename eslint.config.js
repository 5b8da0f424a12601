// What eslint holds our JavaScript to: the recommended rules, and the style that formatting tools would not agree on.

import js from '@eslint/js'
import globals from 'globals'

export default [
  { ignores: ['target/', 'binding.js', 'coverage/', '**/*.d.*ts', '__test__/types/'] },
  js.configs.recommended,
  {
    files: ['**/*.{js,mjs,cjs}'],
    languageOptions: { ecmaVersion: 2024, sourceType: 'module', globals: globals.node },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      eqeqeq: 'error',
      'no-unused-vars': ['error', { args: 'after-used', argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'all' }],
      'no-control-regex': 'off',
      'no-var': 'error',
      'object-shorthand': 'error',
      'prefer-const': ['error', { destructuring: 'all' }],
      'prefer-object-has-own': 'error'
    }
  },
  { files: ['examples/demo/report/*.js'], languageOptions: { globals: { ...globals.browser, uPlot: 'readonly' } } },
  { files: ['**/*.cjs'], languageOptions: { sourceType: 'commonjs' } }
]
