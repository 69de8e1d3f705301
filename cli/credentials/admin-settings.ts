/** Where the administrator of store and broker finds them. `docs/configuration.md` lists the settings; a test compares. */
import { Type, type Static } from "@sinclair/typebox";

/** Names are environment variables; a flag of `dynamos steward` counts instead of its variable. */
export const AdminSettings = Type.Object({
  DYNAMOS_ADMIN_STORE: Type.Optional(
    Type.String({ description: "etcd by the user root, as --store; its password in a passwordFile" }),
  ),
  DYNAMOS_ADMIN_BROKER: Type.Optional(Type.String({ description: "RabbitMQ and its virtual host, as --broker" })),
  DYNAMOS_ADMIN_BROKER_MANAGEMENT: Type.Optional(
    Type.String({ description: "RabbitMQ's management by an administrator, as --broker-management" }),
  ),
  DYNAMOS_PARTY_STORE_ADDRESS: Type.Optional(
    Type.String({
      description: "HOST:PORT[,…] of etcd in the credentials that are made; absent: those of DYNAMOS_ADMIN_STORE",
    }),
  ),
  DYNAMOS_PARTY_BROKER_ADDRESS: Type.Optional(
    Type.String({
      description: "HOST:PORT[,…] of RabbitMQ in the credentials that are made; absent: those of DYNAMOS_ADMIN_BROKER",
    }),
  ),
});

/** See {@link AdminSettings}. */
export type AdminSettings = Static<typeof AdminSettings>;
