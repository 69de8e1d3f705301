/** Who may import whom (docs/architecture.md, "Import rules"). Run by `npm run deps`. */
const deployables = "^(orchestrator|agent|sidecar|microservices)/";

/** Only these files may load this vendor. */
function vendor(name, allowed) {
  return {
    name: `vendor-${name.replace(/[^a-z0-9]+/gi, "-")}`,
    comment: `${name} has one place, so that it can be changed there.`,
    severity: "error",
    from: { pathNot: allowed },
    to: { path: `node_modules/${name}/` },
  };
}

module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", from: {}, to: { circular: true } },
    { name: "no-unresolvable", severity: "error", from: {}, to: { couldNotResolve: true } },
    {
      name: "model-is-pure",
      comment: "The domain is testable without anything running.",
      severity: "error",
      from: { path: "^lib/model/" },
      to: { pathNot: "^lib/(model/|errors\\.ts$)|node_modules/@sinclair/typebox/|^crypto$" },
    },
    {
      name: "ports-name-no-vendor",
      severity: "error",
      from: { path: "^lib/(knowledge/knowledge-store|bus/message-bus|jobs/job-runner)\\.ts$" },
      to: { pathNot: "^lib/(model/|errors\\.ts$)" },
    },
    {
      name: "adapters-only-by-open",
      comment: "One place chooses the adapter.",
      severity: "error",
      from: {
        // The doctor asks the cluster's API what the agents may do there.
        pathNot:
          "^(lib/(knowledge|bus|jobs)/(open|sqlite|etcd|embedded|rabbitmq|local|kubernetes|sidecar)|cli/doctor/probe-(kubernetes|namespace|pods))",
      },
      to: { path: "^lib/(knowledge/(sqlite|etcd)|bus/(embedded|rabbitmq|sidecar)|jobs/(local|kubernetes))" },
    },
    {
      name: "deployables-meet-in-proto",
      comment: "Deployables never import each other; they share lib and the wire contracts.",
      severity: "error",
      from: { path: "^(orchestrator|agent|sidecar|microservices)/" },
      to: { path: deployables, pathNot: "^$1/" },
    },
    {
      name: "lib-knows-no-deployable",
      severity: "error",
      from: { path: "^lib/" },
      to: { path: "^(orchestrator|agent|sidecar|microservices|sdk|cli|bench|test)/" },
    },
    {
      name: "only-agents-start-jobs",
      severity: "error",
      from: { path: "^orchestrator/" },
      to: { path: "^lib/jobs/" },
    },
    {
      name: "sidecar-moves-messages",
      comment: "It decides nothing, and holds no store.",
      severity: "error",
      from: { path: "^sidecar/" },
      to: { path: "^lib/(knowledge|policy|chain|algorithms|jobs/(?!chain-environment))" },
    },
    {
      name: "chains-offer-no-messaging",
      comment:
        "A microservice may be anybody's: a chain's sidecar must not be able to offer it the bus (design decision 19).",
      severity: "error",
      from: { path: "^sidecar/(?!messaging)" },
      to: { path: "^sidecar/messaging" },
    },
    {
      name: "microservices-see-no-control-plane",
      comment: "Code next to data holds no store, bus or cluster credentials.",
      severity: "error",
      from: { path: "^(microservices|sdk)/" },
      to: { path: "^lib/(knowledge|bus|http|tls|policy|tokens|jobs/(?!chain-environment))" },
    },
    vendor(
      "better-sqlite3",
      "^(lib/(knowledge|bus)/|lib/data/|microservices/sql-query/|agent/data/|cli/|test/|bench/)",
    ),
    vendor(
      "@duckdb/.*",
      "^(lib/data/duckdb|microservices/sql-query/(pushdown-)?duckdb|agent/data/duckdb-|test/|bench/)",
    ),
    // etcd3 brings no way of its own to make a channel's credentials, or to hear of its state.
    vendor("@grpc/grpc-js", "^lib/(rpc/|knowledge/etcd-(connection|calls)\\.ts$)"),
    vendor("etcd3", "^lib/knowledge/etcd"),
    vendor("@kubernetes/client-node", "^(lib/jobs/kubernetes|cli/doctor/probe-network\\.ts$|test/|bench/)"),
    vendor("amqplib", "^(lib/bus/rabbitmq|test/|bench/)"),
    vendor("fastify", "^(lib/http/|orchestrator/http/|agent/http/|test/)"),
    vendor("graphlib", "^lib/chain/"),
    vendor("@opentelemetry/(sdk-node|exporter.*)", "^lib/telemetry/tracing\\.ts$"),
    vendor("(vega|vega-lite|@resvg/.*)", "^(microservices/sql-graph/|test/)"),
    vendor("@viz-js/viz", "^lib/render/"),
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^(dist|lib/rpc/gen)/" },
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default"] },
  },
};
