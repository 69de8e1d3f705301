/** The messaging sidecar's settings. `docs/configuration.md` lists them; a test compares. */
import { Type, type Static } from "@sinclair/typebox";

/** Names are environment variables. */
export const MessagingSettings = Type.Object({
  DYNAMOS_BUS: Type.String({ description: "message bus, for example embedded:/path/bus.db" }),
  DYNAMOS_SIDECAR_LISTEN: Type.String({
    default: "127.0.0.1:50051",
    description: "where to listen: a port on loopback (0: any free one), or unix:/path of a socket for this user alone",
  }),
  DYNAMOS_DRAIN_MS: Type.Integer({
    default: 30_000,
    minimum: 0,
    description: "how long clients may go on after the sidecar was told to stop",
  }),
  DYNAMOS_METRICS_PORT: Type.Optional(
    Type.Integer({
      minimum: 0,
      maximum: 65535,
      description: "port to offer metrics on, at /metrics; 0: any free one; absent: no metrics",
    }),
  ),
  DYNAMOS_HOST: Type.String({ default: "127.0.0.1", description: "address to offer metrics on" }),
  DYNAMOS_LOG_LEVEL: Type.String({ default: "info", description: "fatal, error, warn, info, debug or trace" }),
  DYNAMOS_EXIT_WITH_PARENT: Type.Boolean({ default: false, description: "stop when standard input closes" }),
});
export type MessagingSettings = Static<typeof MessagingSettings>;
