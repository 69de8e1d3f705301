import tseslint from "typescript-eslint";

/** One rule set for the whole tree; the exceptions below each say why. */
export default tseslint.config(
  { ignores: ["dist/**", "lib/rpc/gen/**", "node_modules/**", "**/*.js", "**/*.mjs", "**/*.cjs"] },
  ...tseslint.configs.recommendedTypeChecked,
  {
    files: ["**/*.ts"],
    languageOptions: { parserOptions: { project: "./tsconfig.json", tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      // Ports are asynchronous by contract; an adapter that needs no wait still implements them.
      "@typescript-eslint/require-await": "off",
      "no-console": "error",
      "no-restricted-properties": [
        "error",
        { object: "process", property: "env", message: "Read settings in lib/config/env.ts and pass them on." },
        { object: "Date", property: "now", message: "Take a Clock (lib/clock.ts)." },
      ],
    },
  },
  {
    // node:test's `test` and `describe` return promises that the runner itself awaits.
    files: ["test/**/*.ts", "bench/**/*.ts"],
    rules: {
      "@typescript-eslint/no-floating-promises": [
        "error",
        {
          allowForKnownSafeCalls: ["test", "it", "describe", "suite"].map((name) => ({
            from: "package",
            package: "node:test",
            name,
          })),
        },
      ],
      "no-restricted-properties": "off",
      "no-console": "off",
    },
  },
  { files: ["cli/**/*.ts"], rules: { "no-console": "off" } },
  { files: ["lib/config/env.ts"], rules: { "no-restricted-properties": "off" } },
  { files: ["lib/clock.ts"], rules: { "no-restricted-properties": "off" } },
);
