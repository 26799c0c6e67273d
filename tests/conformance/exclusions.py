"""Tests of Thespian's suite that cannot apply to LoopSystemBase, each by its name, with the reason.

Names are those of module and test, with its parameters where only some do not apply. What is written here is held to:
a test that the suite skips and that is not named fails (`skips`); one that is named must be in the installed suite; and
with `--slow`, those of NOT_ON_ONE_PROCESS must be skipped by the suite itself, and those of NOT_HERE must fail.
"""

from typing import Final

CONVENTION: Final = "needs several actor systems that find each other; this base is one process alone"
WATCH: Final = "needs ThespianWatch, which needs a process that waits for files"
PROCESS: Final = "ends the actor's process, which here is the test's own"
SIGNAL: Final = "sends signals to the actor's process, which here is the test's own"
PYTHON_2: Final = "imports modules as Python 2 does"
AT_REST: Final = "nobody runs the loop: the thread that owns it only joins others"

SEVERAL_SYSTEMS: Final = (
    "sends the addresses of one system to another: on the simple base two systems give the same addresses to different "
    "actors, and the mail reaches the wrong ones; here it is a dead letter"
)
BLOCKING: Final = (
    "a hundred threads ask actors that sleep up to 70 ms in their handlers, on one thread: a round takes 7 s, and the "
    "timeouts of 5 s hold here (the simple base ignores them in private contexts)"
)

NOT_ON_ONE_PROCESS: Final = {
    "test_manyActorSystems.testNotifications": CONVENTION,
    "test_manyActorSystems.testNotificationsUponRegistration": CONVENTION,
    "test_manyActorSystems.test03_checkAllSystemsAndActorsStart": CONVENTION,
    "test_manyActorSystems.test04_conversation": CONVENTION,
    "test_manyActorSystems.test05_uniqueAddresses": CONVENTION,
    "test_manyActorSystems.test06_primaryActorRequirements": CONVENTION,
    "test_manyActorSystems.test07_subActorRequirements": CONVENTION,
    "test_manyActorSystems.test08_requiredRequirementsNotPassedFails": CONVENTION,
    "test_manyActorSystems.test09_requiredRequirementsPassedToTopLevelSucceeds": CONVENTION,
    "test_manyActorSystems.test10_requiredRequirementsPassedViaSubLevelSucceeds": CONVENTION,
    "test_multipleActorSystems.test10_RemoteActorAsk": CONVENTION,
    "test_multipleActorSystems.test11_UnsupportableActorAsk": CONVENTION,
    "test_multipleActorSystems.test13_CreateLocalChildOfRemoteActor": CONVENTION,
    "test_multipleActorSystems.test14_CreateRemoteChildOfRemoteActor": CONVENTION,
    "test_multipleActorSystems.test15_LocalToRemoteToLocal": CONVENTION,
    "test_multipleActorSystems.test16_DistributedActorFamily": CONVENTION,
    "test_multipleActorSystems.test17_CreateRemoteFriends": CONVENTION,
    "test_multipleActorSystems.test18_CreateWithTargetActorRequirements": CONVENTION,
    "test_multipleActorSystems.test19_CreateRemoteFriendsWhoExit": CONVENTION,
    "test_multipleActorSystems.test20_CreateRemoteFriendsWhoDisappear": CONVENTION,
    "test_multipleActorSystems.test21_CreateRemoteFriendsShutdownActorSystem": CONVENTION,
    "test_multipleActorSystems.test22_CreateRemoteGlobalNamedChild": CONVENTION,
    "test_multipleActorSystems.test03_NoCommunicationToIntransigentActor": CONVENTION,
    "test_multipleActorSystems.test04_NoCommunicationToInvalidConstraintActor": CONVENTION,
    "test_preRegistration.test_RegistrationNotificationWithActorAddress": CONVENTION,
    "test_preRegistration.test_RegistrationNotificationWithAddressString": CONVENTION,
    "test_preRegistration.test_Registration": CONVENTION,
    "test_preRegistration.test_deRegistration": CONVENTION,
    "test_preRegistration.test_publicAddrDeRegistration": CONVENTION,
    "test_updateSystemCapabilities.test01_defaultSystemsDoNotSupportColorActors": CONVENTION,
    "test_updateSystemCapabilities.test02_1_addColorCapabilitiesAllowsColorActorsAndSubActors": CONVENTION,
    "test_updateSystemCapabilities.test02_addColorCapabilitiesAllowsColorActors": CONVENTION,
    "test_updateSystemCapabilities.test03_addMultipleColorCapabilitiesToOneActorSystemAllowsColorActors": CONVENTION,
    "test_updateSystemCapabilities.test04_1_actorAddCapabilitiesEnablesOtherActors": CONVENTION,
    "test_updateSystemCapabilities.test05_1_removingColorCapabilitiesViaActorKillsExistingColorActors": CONVENTION,
    "test_updateSystemCapabilities.test05_removingColorCapabilitiesKillsExistingColorActors": CONVENTION,
    "test_updateSystemCapabilities.test06_removingColorCapabilitiesPreventsNewColorActors": CONVENTION,
    "test_updateSystemCapabilities.test07_removingNonExistentCapabilitiesHasNoEffect": CONVENTION,
    "test_updateSystemCapabilities.test08_settingCapabilityToSameValueHasNoEffect": CONVENTION,
    "test_updateSystemCapabilities.test09_removingCapabilityTwiceHasNoEffectTheSecondTime": CONVENTION,
    "test_updateSystemCapabilities.test10_removingColorCapabilitiesOnOtherActorSystemsDoesNotAffectExistingColorActors": CONVENTION,  # noqa: E501
    "test_updateSystemCapabilities.test11_1_capabilityRemovalOnlyAffectsOneSystem": CONVENTION,
    "test_updateSystemCapabilities.test11_allSubActorsNotifiedOfCapabilityChanges": CONVENTION,
    "test_updateSystemCapabilities.test12_updateCapabilitiesAffectsActorDrivenCreateRequests": CONVENTION,
    "test_updateSystemCapabilities.test13_removeOriginalCapabilitiesAffectsActorDrivenCreateRequests": CONVENTION,
    "test_sourceLoading.test08_loadableInRemoteSystemMatchingCapabilities": CONVENTION,
    "test_sourceLoading.test08_loadableInRemoteSystemOnlyIfSourceComesFromConventionLeader": CONVENTION,
    "test_sourceLoading.test08_multiSystemLoadedSourcesNotSharedIfExplicitlyDisallowed": CONVENTION,
    "test_sourceLoading.test08_multiSystemLoadedSourcesNotSharedIfSharingUnrecognized": CONVENTION,
    "test_sourceLoading.test08_multiSystemSharesLoadedSourcesByDefault": CONVENTION,
    "test_sourceLoading.test08_multiSystemSharesLoadedSourcesIfExplicitlyAllowed": CONVENTION,
    "test_sourceLoading.test09_loadableInRemoteSystemUnloadedOnMemberUnload": CONVENTION,
    "test_sourceLoading.test09_loadableInRemoteSystemUnloadedOnPrimaryUnload": CONVENTION,
    "test_sourceLoading.test09_properErrorIfActorCapabilitiesNotSatisfied": CONVENTION,
    "test_sourceLoading.test10_multiSystemStartSubActorByClassReferenceRemotely": CONVENTION,
    "test_sourceLoading.test10_multiSystemStartSubActorCannotStart": CONVENTION,
    "test_runcommand.testCommandAbort": WATCH,
    "test_actorFailures.test08_DeepActorInvoluntaryTermination": PROCESS,
    "test_actorFailures.test_abrupt_child_exit": PROCESS,
    "test_actorSignals.test_signal": SIGNAL,
    "test_actorSignals.testChildSig": SIGNAL,
    "test_sourceLoading.test02_verifyAllOLDSTYLERelativeImportPossibilities": PYTHON_2,
    "test_threadedExternal.test_one_thread_private_context[loopSystemBase]": AT_REST,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-1]": AT_REST,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-2]": AT_REST,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-5]": AT_REST,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-10]": AT_REST,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-100]": AT_REST,
}
"""The suite skips them itself for `simpleSystemBase`, whose name it knows."""

NOT_HERE: Final = {
    "test_actorSystemRestart.testConnectToExistingActorSystem": SEVERAL_SYSTEMS,
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-thread-100]": BLOCKING,
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-100]": BLOCKING,
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-thread-100]": BLOCKING,
}
"""They pass on the simple base."""

EXCLUSIONS: Final = NOT_ON_ONE_PROCESS | NOT_HERE

SLOW_MODULES: Final = {"test_sourceLoading"}
"""Those for --slow: actors from archives, which Callboard does not load."""

SLOW: Final = {
    "test_troupe.testSmallHive_AdjStr",
    "test_troupe.testSmallHive_AdjMsg",
    "test_troupe.testSingleBee",
    "test_troupe.testHive",
    "test_troupe.testColony",
    "test_troupe.testLoadableHive",
    "test_troupe.testLoadableColony",
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-thread-10]",
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-10]",
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-thread-10]",
    "test_deadLettering.test04_DLMultipleHandlers",
    "test_deadLettering.test14_DLMultipleHandlers",
    "test_actorFailures.test02_NonStartingSubActorWithRestarts",
    "test_runcommand.testSlowCommandTimeDelta",
    "test_runcommand.testSlowCommandTimeout",
    "test_sourceLoading.test02_verifyNotificationKillDoesNotBreakNotify",
    "test_sourceLoading.test02_verifyNotificationOfMultipleKillOneDoesNotBreakNotify",
    "test_typeDispatcher.testBottomInt",
    "test_typeDispatcher.testBottomMsg3",
    "test_typeDispatcher.testBottomStrangeSubclass",
    "test_typeDispatcher.testBottomUnrecognized",
    "test_typeDispatcher.testMiddleMsg2",
    "test_typeDispatcher.testTopMsg2",
    "test_threadedExternal.test_multiple_threads_private_context[loopSystemBase-thread-5]",
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-5]",
    "test_threadedExternal.test_multiple_threads_private_context_ask[loopSystemBase-thread-5]",
}
"""Tests of 2 s and more, nearly all of it sleep: they run with `--slow`."""
