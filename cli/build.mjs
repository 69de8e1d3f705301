// Builds: every source to `dist/` by the compiler, then the programs once more as bundles in `dist/bundle/`, which start in a third
// of the time: a chain starts several of them for each request, and an exchange a dozen services. Outputs of earlier builds that
// have no source any more are deleted.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { removeOtherOutputs, removeStaleOutputs } from "./stale-outputs.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const compiler = join(root, "node_modules/typescript7/bin/tsc");
const compiled = spawnSync(process.execPath, [compiler, "-p", join(root, "tsconfig.json")], {
  stdio: ["ignore", 2, 2],
});
if (compiled.status !== 0) process.exit(compiled.status ?? 1);
removeStaleOutputs(root, join(root, "dist"));

const { build } = await import("esbuild");
const services = ["orchestrator/main", "orchestrator/policy-enforcer/main", "agent/main", "sidecar/messaging-main"];
const microservices = ["sql-query", "sql-anonymize", "sql-aggregate", "sql-algorithm", "sql-graph"];
const inChains = [
  "sidecar/main",
  ...microservices.map((name) => `microservices/${name}/main`),
  "microservices/sql-query/query-child",
  "microservices/sql-query/world-child",
];
/** Native code, and what is loaded only now and then, stays outside. */
const outside = [
  "better-sqlite3",
  "vega",
  "vega-lite",
  "@resvg/resvg-js",
  "dejavu-fonts-ttf",
  "@viz-js/viz",
  "@opentelemetry/sdk-node",
  "@opentelemetry/exporter-trace-otlp-http",
];
const outputs = [
  ...(await bundle(inChains, outside)),
  // etcd's client reads files of its own package, and must meet the same gRPC as the adapter around it.
  ...(await bundle(services, [...outside, "etcd3", "@grpc/grpc-js", "@kubernetes/client-node"])),
];
// Afterwards rather than before, so that an exchange that runs from here finds its programs all the time.
removeOtherOutputs(join(root, "dist/bundle"), new Set(outputs));

/** Bundles these programs of `dist/`; resolves with the absolute paths of what it wrote. */
async function bundle(programs, external) {
  const { metafile } = await build({
    metafile: true,
    absWorkingDir: root,
    entryPoints: programs.map((program) => `dist/${program}.js`),
    outdir: "dist/bundle",
    outbase: "dist",
    bundle: true,
    splitting: true,
    platform: "node",
    format: "esm",
    target: "node20",
    sourcemap: true,
    logLevel: "warning",
    external,
    // Some of the bundled packages are CommonJS and ask for built-in modules.
    banner: {
      js: 'import { createRequire as bundledRequire } from "node:module"; const require = bundledRequire(import.meta.url);',
    },
  });
  return Object.keys(metafile.outputs).map((file) => join(root, file));
}
