"""IConfig."""

from __future__ import annotations

import re
from typing import Any

import omero.api

from ..caller import Caller, now
from ..servant import Servant, service

VERSION = "5.6.0"


@service(omero.api.IConfig, omero.api.IConfigPrx, "getConfigService")
class ConfigService(Servant, omero.api.IConfig):
    """The few settings that clients read."""

    def _settings(self) -> dict[str, str]:
        edge = str(self.world.settings.max_plane)
        tcp = self.server.ports.tcp
        return {
            "omero.version": VERSION,
            "omero.pixeldata.max_plane_width": edge,
            "omero.pixeldata.max_plane_height": edge,
            "omero.client.viewer.initial_zoom_level": "0",
            "omero.client.download_as.max_size": "144000000",
            "omero.client.icetransports": "ssl,tcp,wss",
            "omero.router.insecure": f"OMERO.Glacier2/router:tcp -p {tcp} -h @omero.host@" if tcp else "",
        }

    def do_getVersion(self, caller: Caller) -> str:
        return VERSION

    def do_getConfigValue(self, caller: Caller, key: str) -> str:
        return self._settings().get(key, "")

    def do_getConfigValues(self, caller: Caller, pattern: str) -> dict[str, str]:
        return {key: value for key, value in self._settings().items() if re.search(pattern, key)}

    def do_getClientConfigValues(self, caller: Caller) -> dict[str, str]:
        return {key: value for key, value in self._settings().items() if key.startswith("omero.client")}

    def do_getClientConfigDefaults(self, caller: Caller) -> dict[str, str]:
        return {}

    def do_getConfigDefaults(self, caller: Caller) -> dict[str, str]:
        return {}

    def do_getDatabaseUuid(self, caller: Caller) -> str:
        return self.world.database_uuid

    def do_getServerTime(self, caller: Caller) -> Any:
        return now()

    def do_getDatabaseTime(self, caller: Caller) -> Any:
        return now()
