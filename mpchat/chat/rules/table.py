"""The table of rules: the function for each kind of request.

`Say` is not in it: `Replica.apply` knows the entry that it travels as.
"""

from collections.abc import Callable
from typing import Any

from mpchat.chat.events import Effect
from mpchat.chat.requests import (
    Act,
    Away,
    Back,
    DescribeMember,
    Explain,
    Ignore,
    Join,
    Leave,
    ListIgnored,
    ListMembers,
    ListRooms,
    Misread,
    Mistake,
    Misuse,
    Negotiate,
    Private,
    Quit,
    Rename,
    Reply,
    Request,
    Search,
    SetQuiet,
    SetRecall,
    SetTimestamps,
    SetTopic,
    ShowEarlier,
    ShowHistory,
    ShowTopic,
    Unignore,
)
from mpchat.chat.rules import people, recall, rooms, session, talk
from mpchat.chat.state.state import Session, State

Rule = Callable[[State, Session, Any, int], list[Effect]]

RULES: dict[type[Request], Rule] = {
    Act: talk.act,
    Private: talk.send_private,
    Reply: talk.reply_private,
    Join: rooms.join_room,
    Leave: rooms.leave_room,
    ListRooms: rooms.list_rooms,
    ListMembers: rooms.list_members,
    ShowTopic: rooms.show_topic,
    SetTopic: rooms.set_topic,
    ShowHistory: recall.show_history,
    ShowEarlier: recall.show_earlier,
    Search: recall.search,
    Rename: people.rename,
    DescribeMember: people.describe_member,
    Ignore: people.ignore,
    Unignore: people.unignore,
    ListIgnored: people.list_ignored,
    Away: people.go_away,
    Back: people.come_back,
    SetTimestamps: people.set_timestamps,
    SetQuiet: people.set_quiet,
    SetRecall: people.set_recall,
    Quit: session.quit_chat,
    Explain: session.explain,
    Misuse: session.report_misuse,
    Misread: session.report_misread,
    Negotiate: session.negotiate,
    Mistake: session.end_mistake,
}
